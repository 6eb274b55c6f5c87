"""Every comparison of `make bench` runs, once and with next to no data, by the code that `make bench` runs. No time is asserted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support import benchmark_jobs as jobs

from benchmarks import __main__ as program
from benchmarks.actors import Actor, ActorError, together
from benchmarks.bench import Bench
from benchmarks.knowledge import DTYPES, SIZES, Shape, dense
from benchmarks.measure import Comparison, Goal, Sample, Side
from benchmarks.scale import FULL, QUICK, TINY
from tutelage.deploy.local import Stack

PEERS = {"npy", "safetensors", "arrow", "hdf5", "parquet", "webdataset"}
OURS_READ = {"tutelage, verified", "tutelage, not verified", "tutelage, verified and copied"}
RAW = "raw system calls"
PANTHEON = "a queue of pickled dicts (Pantheon's way)"
RATES = ("bytes_per_s", "units_per_s", "ratio")


def online_sides(shape: Shape, partitions: int) -> set[str]:
    """What one comparison through the broker has."""
    found = {"raw client", "tutelage"}
    if partitions == 1:
        found |= {PANTHEON}
    if (shape.name, partitions) == ("256 KB", 4):
        found |= {"AvroSerializer, bytes fields", "a message a sample, array<float>"}
    return found


#: Of each benchmark, what is compared: a comparison's title and its sides.
EXPECTED: dict[str, dict[str, set[str]]] = {
    "offline": {
        **{f"offline: write, batches of {size}, synced": {RAW, "tutelage, checksummed", "fastavro", *PEERS} for size in ("256 KB", "8 MB")},
        **{f"offline: read to torch, warm, batches of {size}": {RAW, "fastavro", *OURS_READ, *PEERS} for size in ("256 KB", "8 MB")},
        "offline: write zstandard and deflate, batches of 256 KB": {
            "zstandard alone, one thread",
            "tutelage, 1 thread",
            "tutelage, 2 threads",
            "tutelage, deflate, 2 threads",
            "fastavro, zstandard",
        },
        "offline: read zstandard, batches of 256 KB": {
            "zstandard alone, one thread",
            "tutelage, as many threads as processors",
        },
        "offline: read to torch from disk, cold, batches of 256 KB": {RAW, "tutelage, verified", "safetensors"},
    },
    "online": {
        **{
            f"online: batches of {shape.name}, {count} partition{'s' * (count > 1)}": online_sides(shape, count)
            for shape in SIZES
            for count in (1, 4, 16)
        },
        **{f"online: batches of {shape.name}, 4 partitions": online_sides(shape, 4) for shape in DTYPES},
        "online: two teachers merged by mean, batches of 256 KB, 4 partitions, total bytes": {"one teacher", "two teachers"},
    },
    "growth": {
        "growth: batches of 768 B": {f"{count} batches" for count in TINY.growth_batches},
        "growth: keys of 64 x int64": {"1 keys", "10 keys", "100 keys"},
        "growth: teachers merged by mean, batches of 64 KB": {f"{count} teachers" for count in (1, 2, 4, 8)},
        "growth: partitions, batches of 64 KB, online": {f"{count} partitions" for count in (1, 4, 16, 64)},
    },
    "start": {
        "start: `tutelage --help` (goal: 300 ms)": {"python -c pass", "tutelage --help"},
        "start: from `tutelage learn` typed to the first batch of a full topic (goal: 1 s)": {
            "python -c 'import torch'",
            "tutelage learn, first row",
        },
        "start: a lone batch, 50 a second: from written to merged (goal: p99 20 ms)": {"p50", "p99", "slowest"},
    },
    "training": {
        "training: steps of 20 ms on batches of 1 MB from a topic": {
            "steps without data",
            "student.knowledge(64)",
            "DataLoader, num_workers=0",
            "DataLoader, num_workers=1",
        }
    },
    "ranks": {
        f"ranks: {what}, global batches of 2,048 rows of 4 KB": {"1 rank", "2 ranks", "4 ranks", "8 ranks"}
        for what in ("a topic of 8 partitions", "a file")
    },
    "replicas": {
        "replicas: 8 partitions, a model of 100 ms a query": {"1 replica", "2 replicas", "4 replicas"},
        "replicas: a round without a model: asked, answered, read (goal: p50 10 ms, p99 25 ms)": {
            "p50",
            "p99",
            "slowest",
        },
        "replicas: without answers after a death (classic, session 6 s)": {"p50", "longest"},
        "replicas: without answers after a death (consumer, session 45 s)": {"p50", "longest"},
    },
    "losses": {
        "losses: forward KL from a file, 49,152 ids a position": {"all logits, float16", "25 draws"}
    },
    "rows": {
        f"rows: shuffled, batches of 32 rows of {size}": {
            "arrow, Subset",
            "tutelage, verified",
            "tutelage, not verified",
            "datasets, Subset",
        }
        for size in ("1 KB", "32 KB")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def shared(stack: Stack) -> Iterator[Callable[[], AbstractContextManager[Bench]]]:
    """Opens one bench for all: its processes import torch once."""
    bench = Bench(stack)

    @contextmanager
    def opened() -> Iterator[Bench]:
        yield bench

    try:
        yield opened
    finally:
        bench.close()


def test_every_benchmark_is_looked_at() -> None:
    assert set(EXPECTED) == set(program.NAMES)


# Some fifty pairs of processes that import torch: a minute on a machine with nothing else to do.
@pytest.mark.timeout(1200)
@pytest.mark.kafka
@pytest.mark.parametrize("name", program.NAMES)
def test_every_comparison_runs_with_every_side_and_gives_finite_figures(
    name: str,
    shared: Callable[[], AbstractContextManager[Bench]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = program.main([name, "--tiny", "--rounds", "1", "--out", str(tmp_path)], shared)
    out, err = capfd.readouterr()
    assert code == 0, err
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert {one["title"]: {side["name"] for side in one["sides"]} for one in found} == EXPECTED[
        name
    ]
    for one in found:
        assert not any("nan" in verdict or "inf" in verdict for verdict in one["goals"])
        for side in one["sides"]:
            (sample,) = side["samples"]
            figures = [side[rate] for rate in RATES] + [
                sample["seconds"],
                sample["nbytes"],
                sample["units"],
            ]
            assert all(math.isfinite(figure) and figure > 0 for figure in figures), (
                one["title"],
                side,
            )
            assert all(math.isfinite(cpu_s) and cpu_s >= 0 for cpu_s in sample["cpu_s"].values())
    assert f"{name} took " in out
    assert "everything took " in out


def test_all_that_is_measured_in_full_is_tried_in_tiny() -> None:
    assert FULL.all_cases and TINY.all_cases and not QUICK.all_cases
    assert len(FULL.growth_batches) == len(TINY.growth_batches)


@pytest.mark.parametrize("scale", [FULL, QUICK, TINY], ids=["full", "quick", "tiny"])
def test_at_every_scale_the_same_batch_is_given_twice(scale: Any) -> None:
    # What cannot take that (a safetensors file, of tensors that share memory) must show it with little data, too.
    for shape in scale.shapes(SIZES + DTYPES):
        assert scale.offline(shape) > shape.distinct
        assert scale.online(shape) > shape.distinct


def test_a_peer_s_shards_never_hold_a_batch_twice(tmp_path: Path) -> None:
    from benchmarks import offline_peers as peers

    class Gate:
        def ready(self) -> None: ...

    for shape in (
        Shape(name="s", rows=2, keys={"a": ((3,), "float16")}, at_most=3),
        dense("d", 2, 3),
    ):
        count = 2 * shape.distinct + 1
        path = str(tmp_path / shape.name)
        peers.write_safetensors(Gate(), path, shape, count)  # type: ignore[arg-type]
        peers.read_safetensors(Gate(), path, shape, count)  # type: ignore[arg-type]
        assert len(list(tmp_path.glob(f"{shape.name}.*"))) == 3


def comparison(title: str, run: Callable[[], Sample]) -> Comparison:
    """One of two sides."""
    good = Side(name="good", run=lambda: Sample(seconds=1.0, nbytes=10, units=1))
    return Comparison(
        title=title,
        sides=[good, Side(name="other", run=run, goals=(Goal(other="good", at_least=0.5),))],
    )


def benchmarks_of(
    monkeypatch: pytest.MonkeyPatch, **modules: Callable[[], Iterator[Comparison]]
) -> None:
    """Have the program know these benchmarks alone."""
    monkeypatch.setattr(program, "NAMES", tuple(modules))
    monkeypatch.setattr(program, "comparisons_of", lambda name, bench, scale: modules[name]())


def test_a_comparison_that_fails_is_listed_at_the_end_and_the_others_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fine() -> Sample:
        return Sample(seconds=2.0, nbytes=10, units=1)

    def broken() -> Sample:
        raise RuntimeError("tensors share memory")

    def endless() -> Sample:
        return Sample(seconds=math.nan, nbytes=10, units=1)

    def first() -> Iterator[Comparison]:
        yield comparison("first: broken", broken)
        yield comparison("first: fine", fine)

    def second() -> Iterator[Comparison]:
        yield comparison("second: fine", fine)
        raise OSError("no broker")

    def third() -> Iterator[Comparison]:
        yield comparison("third: fine", fine)
        yield comparison("third: not a number", endless)

    benchmarks_of(monkeypatch, first=first, second=second, third=third)
    stack = Stack(tmp_path / "never-up")

    @contextmanager
    def bench() -> Iterator[Bench]:
        yield Bench(stack)

    assert program.main(["--rounds", "3", "--out", str(tmp_path / "out")], bench) == 1
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if line.startswith("FAILED: ")] == [
        "FAILED: first: broken: RuntimeError: tensors share memory",
        "FAILED: second (all of it): OSError: no broker",
        "FAILED: third: not a number: ValueError: 'other' took nan seconds",
    ]
    assert "everything took " in said.out
    for name in ("first", "second", "third"):
        found = json.loads((tmp_path / "out" / f"{name}.json").read_text(encoding="utf-8"))
        assert [one["title"] for one in found] == [f"{name}: fine"]
        assert [len(side["samples"]) for side in found[0]["sides"]] == [3, 3]
    assert program.main(["third", "--rounds", "1", "--out", str(tmp_path / "again")], bench) == 1
    benchmarks_of(monkeypatch, first=lambda: iter([comparison("first: fine", fine)]))
    assert program.main(["--rounds", "1", "--out", str(tmp_path / "out")], bench) == 0


@pytest.fixture
def pair() -> Iterator[tuple[Actor, Actor]]:
    """Two processes."""
    made = Actor("student"), Actor("teacher")
    try:
        yield made
    finally:
        for actor in made:
            actor.close()


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (jobs.fails, "teacher failed: ValueError: a peer broke"),
        (jobs.fails_at_once, "teacher failed: ModuleNotFoundError: No module named 'a_peer'"),
        (jobs.ends, "teacher ended with exit code 3"),
    ],
)
def test_a_side_that_fails_ends_the_wait_of_the_other_and_both_can_work_again(
    pair: tuple[Actor, Actor], job: Callable[..., Any], words: str
) -> None:
    student, teacher = pair
    with pytest.raises(ActorError, match=words):
        together([(student, jobs.waits_in_vain, ()), (teacher, job, ())])
    done = together([(student, jobs.answers, (1,)), (teacher, jobs.answers, (2,))])
    assert {name: one.value for name, one in done.items()} == {"student": 1, "teacher": 2}


def test_a_job_that_says_nothing_is_named(
    pair: tuple[Actor, Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair
    together([(student, jobs.answers, (1,)), (teacher, jobs.answers, (2,))])
    monkeypatch.setattr("benchmarks.actors.TIMEOUT_S", 1.0)
    with pytest.raises(ActorError, match="student did not answer"):
        together([(student, jobs.waits_in_vain, ()), (teacher, jobs.answers, (2,))])
