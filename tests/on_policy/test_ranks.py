"""On-policy distillation by several ranks: each writes and reads partitions of its own."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.cluster import until
from support.answering_lesson import answers_to
from support.asking import Answering, queries_to, rows_of, student_of
from support.asking_ranks import PARTITIONS, ROWS, Rank, digest_of_ranks, notes_of, start, steps_of
from support.replicas import written

from tutelage import (
    ConfigurationError,
    KafkaSink,
    KafkaSource,
    MemorySink,
    MemoryTopic,
    OnPolicy,
    QueryWriter,
    SinkExists,
    Student,
    WaitTimeout,
)

STEPS, SIZE = 6, 16


class Training(threading.Thread):
    """A rank in a thread."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(daemon=True)
        self._program = Rank(**fields)
        self.generated = 0
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.generated = self._program.train()
        except BaseException as error:
            self.error = error

    def done(self) -> int:
        """Wait until it ends; the rows that it generated."""
        self.join(300)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.generated


def train(folder: Path, ranks: int, **fields: Any) -> list[int]:
    """Train with so many ranks; the rows that each generated."""
    started = [
        Training(folder=str(folder), rank=rank, ranks=ranks, **fields) for rank in range(ranks)
    ]
    return [each.done() for each in started]


def given_to(folder: Path) -> list[dict[int, dict[str, Any]]]:
    return [notes_of(folder, path.name)[0] for path in sorted(folder.glob("rank*.txt"))]


@pytest.fixture
def expected(kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path) -> str:
    """The digest of a program of one rank, which nothing disturbs."""
    topic, folder = topic_name("undisturbed"), tmp_path / "undisturbed"
    folder.mkdir()
    replica = Answering(topic, kafka)
    train(folder, 1, topics=[topic], kafka=kafka)
    replica.done()
    return digest_of_ranks(given_to(folder), STEPS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "ranks"
    made.mkdir()
    return made


@pytest.mark.kafka
@pytest.mark.parametrize("lag", [0, 1, 3])
def test_each_rank_trains_on_what_it_generated_within_the_lag(
    kafka: dict[str, Any], topic_name: Callable[[str], str], folder: Path, lag: int
) -> None:
    topic = topic_name("shared")
    replicas = [Answering(topic, kafka) for _ in range(2)]
    assert train(folder, 2, topics=[topic], kafka=kafka, lag=lag) == [STEPS * SIZE // 2] * 2
    assert sum(each.done().rows for each in replicas) >= STEPS * SIZE
    ranks = given_to(folder)
    digest_of_ranks(ranks, STEPS)
    for rank, given in enumerate(ranks):
        for step, note in given.items():
            assert note["y"] == answers_to(torch.tensor(note["x"])).tolist()
            assert {x // ROWS % 2 for x in note["x"]} == {rank}
            assert note["lag"] == min(step, lag)
    sequences, _ = written(topic, kafka)
    assert sequences == {
        partition: [*range(partition, STEPS * SIZE // ROWS, PARTITIONS), -1]
        for partition in range(PARTITIONS)
    }


@pytest.mark.kafka
def test_a_rank_or_all_start_again_without_generating_anything_anew(
    kafka: dict[str, Any], topic_name: Callable[[str], str], folder: Path, expected: str
) -> None:
    topic, lag = topic_name("again"), 2
    fields: dict[str, Any] = {"topics": [topic], "kafka": kafka, "lag": lag}
    replicas = [Answering(topic, kafka) for _ in range(2)]
    # Rank 1 is behind, by steps and by what it has written.
    ahead = Training(folder=str(folder), rank=0, stop=4, **fields)
    behind = Training(folder=str(folder), rank=1, stop=2, **fields)
    generated = [ahead.done(), behind.done()]
    assert generated == [STEPS * SIZE // 2, 4 * SIZE // 2]
    # Its state is older: it is given the steps behind it again.
    (folder / "rank1.json").unlink()
    assert train(folder, 2, **fields) == [0, 2 * SIZE // 2]
    assert train(folder, 2, **fields) == [0, 0]
    for each in replicas:
        each.done()
    ranks = given_to(folder)
    assert digest_of_ranks(ranks, STEPS) == expected
    assert all(note["lag"] <= lag for given in ranks for note in given.values())


@pytest.mark.kafka
def test_another_number_of_ranks_goes_on_with_the_same_run(
    kafka: dict[str, Any], topic_name: Callable[[str], str], folder: Path, expected: str
) -> None:
    topic = topic_name("elastic")
    replica = Answering(topic, kafka)
    ranks: list[Path] = []
    for world, stop in ((2, 2), (4, 3), (1, 5), (2, None)):
        here = folder / str(len(ranks))
        here.mkdir()
        if ranks:
            # The state is the same on every rank, and for any number of them.
            before = folder / str(len(ranks) - 1)
            (here / "state.json").write_bytes((before / "rank0.json").read_bytes())
        ranks.append(here)
        train(here, world, topics=[topic], kafka=kafka, stop=stop)
    replica.done()
    assert digest_of_ranks([given for here in ranks for given in given_to(here)], STEPS) == expected


@pytest.mark.kafka
def test_ranks_of_a_process_group_agree_on_a_run(
    kafka: dict[str, Any],
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    folder: Path,
) -> None:
    topic = topic_name("agreed")
    replica = Answering(topic, kafka)
    fields: dict[str, Any] = {"topics": [topic], "folder": str(folder), "ranks": 2, "run_id": None}
    started = [start(environment, group=folder / "group", rank=rank, **fields) for rank in range(2)]
    end_all(started, folder)
    replica.done()
    digest_of_ranks(given_to(folder), STEPS)
    others = [notes_of(folder, f"rank{rank}.txt")[1] for rank in range(2)]
    runs = {note["run"] for notes in others for note in notes if "run" in note}
    assert len(runs) == 1
    for notes in others:
        assert [note["generated"] for note in notes if "generated" in note] == [40, 8]


def end_all(started: list[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait until all processes have ended well."""
    try:
        codes = [each.wait(300) for each in started]
    finally:
        for each in started:
            each.kill()
            each.wait()
    said = [path.read_text(encoding="utf-8")[-2000:] for path in sorted(folder.glob("*.err"))]
    assert not any(codes), said


@pytest.mark.kafka
def test_ranks_of_two_merged_teachers_lose_nothing_when_one_is_killed(
    kafka: dict[str, Any],
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    tmp_path: Path,
    folder: Path,
) -> None:
    def second(batch: dict[str, Any]) -> dict[str, Any]:
        return {"y": answers_to(batch["x"]) + 4}

    digests = []
    for name in ("calm", "killed"):
        topics = [topic_name(f"{name}-first"), topic_name(f"{name}-second")]
        asked = f"{topics[0]}.queries"
        replicas = [Answering(topics[0], kafka) for _ in range(2)]
        replicas.append(Answering(topics[1], kafka, second, queries=asked))
        if name == "calm":
            train(tmp_path, 1, topics=topics, kafka=kafka)
            ranks = given_to(tmp_path)
        else:
            fields: dict[str, Any] = {"topics": topics, "folder": str(folder), "pause_s": 0.2}
            started = [start(environment, rank=rank, **fields) for rank in range(2)]
            until(lambda: steps_of(folder, 1) >= 2, "rank 1 to train", 300)
            started[1].kill()
            started[1].wait()
            started[1] = start(environment, rank=1, **fields)
            end_all(started, folder)
            ranks = given_to(folder)
        for each in replicas:
            each.done()
        digests.append(digest_of_ranks(ranks, STEPS))
        for note in (note for given in ranks for note in given.values()):
            assert note["y"] == (answers_to(torch.tensor(note["x"])) + 2).tolist()
            assert note["lag"] == min(note["step"], 2)
    assert digests[0] == digests[1]


@pytest.mark.kafka
def test_a_rank_that_waits_is_told_who_answers(
    kafka: dict[str, Any], topic_name: Callable[[str], str], folder: Path
) -> None:
    topics = [topic_name("alone"), topic_name("alone")]
    fields: dict[str, Any] = {"topics": topics, "kafka": kafka, "timeout_s": 2}
    started = [Training(folder=str(folder), rank=rank, **fields) for rank in range(2)]
    for each in started:
        with pytest.raises(WaitTimeout, match=f"group tutelage-{topics[1]} has no replica"):
            each.done()


@pytest.mark.kafka
def test_a_topic_whose_partitions_ranks_cannot_share_is_refused_and_not_made(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("odd")
    for partitions, found in ((3, 3), (None, 4)):
        sink = KafkaSink(topic, partitions=partitions, **kafka)
        queries = QueryWriter(sink, rows_per_record=ROWS, shard=(0, 5), run_id="asked")
        with pytest.raises(
            ConfigurationError,
            match=f"topic {topic} has {found} partitions, which 5 ranks cannot share.*such as 5",
        ):
            queries.start()
    with QueryWriter(KafkaSink(topic, partitions=3, **kafka), rows_per_record=ROWS) as queries:
        queries.write({"x": torch.arange(4)})
        run = queries.run_id
    # The run that is there has 3 partitions, whatever is asked for.
    sink = KafkaSink(topic, **kafka)
    queries = QueryWriter(sink, rows_per_record=ROWS, shard=(1, 2), run_id=run)
    with pytest.raises(ConfigurationError, match="has 3 partitions, which 2 ranks cannot share"):
        queries.start()


def test_a_sink_that_counts_the_records_of_one_writer_is_refused(kafka: dict[str, Any]) -> None:
    sink = KafkaSink("never", max_ahead=4, student_group="group", **kafka)
    queries = QueryWriter(sink, rows_per_record=ROWS, shard=(1, 2), run_id="asked")
    with pytest.raises(ConfigurationError, match="which neither transactional=True nor max_ahead"):
        queries.start()


@pytest.mark.parametrize("shard", [None, (1, 2), (0, 4)])
def test_a_writer_of_another_rank_than_the_student_is_refused(shard: Any) -> None:
    queries = QueryWriter(MemorySink(MemoryTopic()), rows_per_record=1, shard=shard)
    with pytest.raises(ConfigurationError, match="is rank 0 of 2, and the queries are written by"):
        OnPolicy(Student(shard=(0, 2)), queries, rows_of, batch_size=1, steps=1)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({}, "give batch_size, the rows of a step of one rank, or global_batch_size"),
        ({"batch_size": 2, "global_batch_size": 4}, "give batch_size, .* or global_batch_size"),
        ({"global_batch_size": 5}, "is 5, which 2 ranks cannot share.*such as 6"),
    ],
)
def test_a_step_that_ranks_cannot_share_is_refused(sizes: dict[str, int], message: str) -> None:
    shard = (0, 2)
    queries = QueryWriter(MemorySink(MemoryTopic()), rows_per_record=1, shard=shard)
    with pytest.raises(ConfigurationError, match=message):
        OnPolicy(Student(shard=shard), queries, rows_of, steps=1, **sizes)


@pytest.mark.kafka
def test_peers_that_hold_parts_of_one_model_write_the_same_rows_and_each_counts_once(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic = topic_name("peers")
    replica = Answering(topic, kafka)
    folders = [tmp_path / f"part{part}" for part in range(2)]
    for here in folders:
        here.mkdir()
    started = [
        Training(folder=str(here), rank=rank, topics=[topic], kafka=kafka, pause_s=0.05)
        for here in folders
        for rank in range(2)
    ]
    for each in started:
        each.done()
    replica.done()
    assert given_to(folders[0]) == given_to(folders[1])
    digest_of_ranks(given_to(folders[0]), STEPS)


@pytest.mark.kafka
def test_ranks_begin_a_new_run_behind_an_older_one_whoever_starts_first(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("behind")

    def writer(rank: int, **options: Any) -> QueryWriter:
        sink = KafkaSink(topic, partitions=PARTITIONS, **kafka)
        return QueryWriter(sink, rows_per_record=ROWS, shard=(rank, 2), timeout_s=30, **options)

    for rank in range(2):
        with writer(rank, run_id="older") as queries:
            queries.write({"x": torch.full((4,), -1)})
    newer: dict[str, Any] = {"run_id": "newer", "new_run": True}
    with pytest.raises(SinkExists, match="run_id 'older' there, 'newer' here"):
        writer(1, run_id="newer").start()
    with writer(1, **newer) as one:
        late = threading.Thread(target=one.write, args=({"x": torch.tensor([2, 3])},))
        late.start()
        with writer(0, **newer) as zero:
            assert (zero.rows, one.run_id) == (0, zero.run_id)
            zero.write({"x": torch.tensor([0, 1])})
            late.join(60)
            assert not late.is_alive()
            one.end()
            zero.end()
    with pytest.raises(SinkExists, match="run_id 'newer' there, 'older' here"):
        writer(1, run_id="older").start()
    student = Student(timeout_s=30)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        (batch,) = student.knowledge(4)
        assert batch["x"].tolist() == [0, 1, 2, 3]


@pytest.mark.kafka
def test_a_rank_whose_rows_have_no_answer_makes_the_step_with_the_others(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic, steps = topic_name("unanswered"), 3
    replica = Answering(topic, kafka, only={"mine": 1})
    found: dict[int, list[int]] = {}

    def train_rank(rank: int) -> None:
        shard = (rank, 2)
        student = student_of(topic, kafka, on_unanswered="skip", shard=shard)
        with queries_to(topic, kafka, run_id="asked", shard=shard) as queries, student:

            def generate(step: int) -> dict[str, torch.Tensor]:
                numbers = loop.row_numbers(step)
                # In the middle step the teacher answers rank 1 alone.
                return {"x": numbers, "mine": torch.full((8,), int(step != 1 or rank == 1))}

            loop = OnPolicy(student, queries, generate, batch_size=8, steps=steps)
            found[rank] = [len(batch["x"]) for batch in loop]

    ranks = [threading.Thread(target=train_rank, args=(rank,)) for rank in range(2)]
    for each in ranks:
        each.start()
    for each in ranks:
        each.join(200)
    replica.done()
    assert found == {0: [8, 0, 8], 1: [8, 8, 8]}
