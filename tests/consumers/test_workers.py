"""A student read by DataLoader workers: the right pass epoch after epoch, and no answer from a process that does not know."""

from __future__ import annotations

import gc
import json
import pickle  # noqa: TID251 - copies of our own, to see that they can be made
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest
from support.teaching import teach
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torchdata.stateful_dataloader import StatefulDataLoader

from tutelage import FileSink, FileSource, Student, Teacher
from tutelage.consumers.metrics import StudentMetrics
from tutelage.schemas.errors import ConfigurationError, TruncatedData

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning",
    "ignore:This DataLoader will create",
    # Of torchdata, with a torch that is newer than it.
    "ignore:'set_vital' is deprecated",
)

WORKERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 1},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 3, "prefetch_factor": 1},
    {"num_workers": 1, "prefetch_factor": 8, "persistent_workers": True},
]
PASSES = [[0, 5, 10, 15], [100, 105, 110, 115], [200, 205, 210, 215]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of three passes over 20 rows."""
    path = tmp_path / "p.avro"
    with Teacher(FileSink(path), passes=3, rows_per_record=3) as teacher:
        for first in (0, 100, 200):
            teacher.write({"x": torch.arange(first, first + 20)})
            teacher.end_pass()
    return path


def student_of(path: Path) -> Student:
    """A student of a file, not started."""
    student = Student(timeout_s=20)
    student.register_teacher(FileSource(path))
    return student


def loader_of(student: Student, kind: Callable[..., Any] = DataLoader, **options: Any) -> Any:
    """A loader of batches of five rows."""
    return kind(student.dataset(5), batch_size=None, **options)


def firsts(loader: Any) -> list[int]:
    """The first number of each batch."""
    return [int(batch["x"][0]) for batch in loader]


def taken(loader: Any, count: int) -> list[int]:
    """The first numbers of some batches, after which the loop is left."""
    found: list[int] = []
    if not count:
        return found
    for batch in loader:
        found.append(int(batch["x"][0]))
        if len(found) == count:
            break
    gc.collect()
    return found


@pytest.mark.parametrize("options", WORKERS, ids=str)
def test_each_epoch_gives_the_next_pass_and_one_left_early_is_given_again(
    path: Path, options: dict[str, Any]
) -> None:
    with student_of(path) as student:
        loader = loader_of(student, **options)
        for passes in (PASSES, PASSES[:1]):
            for numbers in passes:
                for count in (1, 2, 3):
                    assert taken(loader, count) == numbers[:count]
                assert firsts(loader) == numbers


@pytest.mark.parametrize("options", WORKERS, ids=str)
def test_after_a_load_the_rest_is_given_once_and_then_whole_passes(
    path: Path, options: dict[str, Any]
) -> None:
    with student_of(path) as student:
        taken(student.knowledge(5), 3)
        state = student.state_dict()
    with student_of(path) as student:
        student.load_state_dict(state)
        loader = loader_of(student, **options)
        assert [firsts(loader) for _ in range(4)] == [
            PASSES[0][3:],
            PASSES[1],
            PASSES[2],
            PASSES[0],
        ]
    with student_of(path) as student:
        student.load_state_dict(state)
        loader = loader_of(student, **options)
        assert taken(loader, 1) == PASSES[0][3:]
    taken_two = {**state, "batches": 2, "rows": 10, "sources": [{**state["sources"][0]}]}
    taken_two["sources"][0]["position"] = {
        "pass_index": 0,
        "sequence": 3,
        "row": 1,
        "offsets": [-1],
    }
    with student_of(path) as student:
        student.load_state_dict(taken_two)
        loader = loader_of(student, **options)
        assert taken(loader, 1) == [10]
        assert firsts(loader) == PASSES[0]


def test_the_number_of_workers_may_change_between_epochs_and_loaders_share_a_dataset(
    path: Path,
) -> None:
    with student_of(path) as student:
        dataset = student.dataset(5)
        for index, workers in enumerate((2, 0, 1, 0, 0, 3, 1)):
            assert (
                firsts(DataLoader(dataset, batch_size=None, num_workers=workers))
                == PASSES[index % 3]
            )
        assert firsts(loader_of(student, num_workers=1)) == PASSES[1]
        assert firsts(student.knowledge(5)) == PASSES[2]


def test_what_is_asked_of_the_main_process_beside_workers_is_an_error_never_a_zero(
    path: Path, tmp_path: Path
) -> None:
    with student_of(path) as student:
        for asked in (
            student.stats.batches,
            student.pass_index,
            student.queue_size,
            student.batches_delivered,
        ):
            assert asked == 0
        registry = CollectorRegistry()
        registry.register(StudentMetrics(student))
        assert b"tutelage_consumer_delivered_batches_total 0.0" in generate_latest(registry)
        batches = iter(loader_of(student, num_workers=2))
        next(batches), next(batches)
        names = (
            "stats",
            "stream_stats",
            "queue_size",
            "dropped",
            "pass_index",
            "batches_delivered",
        )
        asks: dict[str, Callable[[], Any]] = {
            "state_dict": student.state_dict,
            "save": lambda: student.save(tmp_path / "s.json"),
            "commit": student.commit,
            **{name: partial(getattr, student, name) for name in names},
        }
        for name, ask in asks.items():
            with pytest.raises(
                ConfigurationError,
                match="DataLoader workers read this student.*num_workers=0.*StatefulDataLoader",
            ):
                pytest.fail(f"{name}: {ask()}")
        assert not (tmp_path / "s.json").exists()
        assert "read by DataLoader workers" in repr(student)
        assert student.activity.doing == "read by DataLoader workers"
        assert student.stream_statuses() == []
        assert generate_latest(registry) == b""
        assert student.passes == 3
        del batches
        # Read in this process again, its place is known again; what workers read was never counted here.
        assert firsts(student.knowledge(5)) == PASSES[0]
        assert (student.pass_index, student.state_dict()["pass_index"]) == (1, 1)
        with pytest.raises(ConfigurationError, match="stats"):
            _ = student.stats
        assert generate_latest(registry) == b""


def test_a_second_iterator_beside_the_first_reads_the_same_pass_and_the_last_one_counts(
    path: Path,
) -> None:
    with student_of(path) as student:
        loader = loader_of(student, num_workers=1)
        first = iter(loader)
        assert next(first)["x"][0] == 0
        assert firsts(loader) == PASSES[0]
        assert [int(batch["x"][0]) for batch in first] == PASSES[0][1:]
        del first
        assert firsts(loader) == PASSES[1]


def test_workers_that_were_started_before_the_student_went_elsewhere_say_so(path: Path) -> None:
    with student_of(path) as student:
        taken(student.knowledge(5), 1)
        state = student.state_dict()
        loader = loader_of(student, num_workers=1, persistent_workers=True)
        assert firsts(loader) == PASSES[0]
        student.load_state_dict(state)
        with pytest.raises(ConfigurationError, match="make a new DataLoader"):
            firsts(loader)
        del loader
        assert firsts(loader_of(student, num_workers=1)) == PASSES[0][1:]


def test_a_damaged_pass_is_an_error_in_the_loader_and_not_its_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])
    with student_of(path) as student:
        loader = loader_of(student, num_workers=2)
        assert [firsts(loader) for _ in range(2)] == PASSES[:2]
        for _ in range(2):
            with pytest.raises(TruncatedData):
                firsts(loader)


@pytest.mark.parametrize("collate", [lambda batch: batch["x"], dict], ids=["tensor", "dict"])
def test_a_collate_function_may_make_something_else_of_a_batch(
    path: Path, collate: Callable[..., Any]
) -> None:
    with student_of(path) as student:
        loader = loader_of(student, num_workers=2, collate_fn=collate)
        found = [
            [int((batch if isinstance(batch, torch.Tensor) else batch["x"])[0]) for batch in loader]
            for _ in range(4)
        ]
        assert found == [*PASSES, PASSES[0]]


def test_batches_may_be_collated_again(path: Path) -> None:
    with student_of(path) as student:
        loader = DataLoader(student.dataset(5), batch_size=2, num_workers=2)
        for numbers in PASSES:
            assert [batch["x"][:, 0].tolist() for batch in loader] == [numbers[:2], numbers[2:]]


def test_batches_of_workers_are_plain_dicts(path: Path) -> None:
    with student_of(path) as student:
        assert {type(batch) for batch in loader_of(student, num_workers=1)} == {dict}


class Wrapped(IterableDataset[int]):
    """A data set of a user's own."""

    def __init__(self, student: Student, *, whole: bool) -> None:
        self.student = student
        self.inner = student.dataset(5)
        self.whole = whole

    def __iter__(self) -> Iterator[int]:
        assert get_worker_info() is not None
        return iter(firsts(self.inner if self.whole else self.student.knowledge(5)))


def test_a_data_set_around_ours_works_and_one_around_knowledge_is_refused(path: Path) -> None:
    with student_of(path) as student:
        loader = DataLoader(Wrapped(student, whole=True), batch_size=None, num_workers=2)
        assert [[int(first) for first in loader] for _ in range(2)] == PASSES[:2]
        with pytest.raises(ConfigurationError, match=r"give the DataLoader student\.dataset"):
            list(DataLoader(Wrapped(student, whole=False), batch_size=None, num_workers=1))


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_that_are_started_afresh_go_on_too(path: Path, context: str) -> None:
    with student_of(path) as student:
        taken(student.knowledge(5), 1)
        state = student.state_dict()
        student.load_state_dict(state)
        loader = loader_of(student, num_workers=1, multiprocessing_context=context)
        assert [firsts(loader) for _ in range(2)] == [PASSES[0][1:], PASSES[1]]
        with pytest.raises(ConfigurationError, match="pass_index"):
            _ = student.pass_index


def test_a_pickled_copy_goes_on_by_itself(path: Path) -> None:
    with student_of(path) as student:
        dataset = student.dataset(5)
        assert firsts(DataLoader(dataset, batch_size=None, num_workers=1)) == PASSES[0]
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - made here
        assert firsts(DataLoader(copy, batch_size=None, num_workers=1)) == PASSES[1]
        assert firsts(DataLoader(copy, batch_size=None)) == PASSES[2]
        assert firsts(DataLoader(dataset, batch_size=None, num_workers=1)) == PASSES[1]
        copy._student.close()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [0, 1, 3, 4])
def test_a_stateful_loader_resumes_in_mid_epoch_and_later_epochs_are_whole(
    path: Path, workers: int, count: int
) -> None:
    with student_of(path) as student:
        loader = loader_of(student, StatefulDataLoader, num_workers=workers)
        assert firsts(loader) == PASSES[0]
        batches = iter(loader)
        assert [int(next(batches)["x"][0]) for _ in range(count)] == PASSES[1][:count]
        state = loader.state_dict()
        del batches
    if not workers:
        state = json.loads(json.dumps(state))
    with student_of(path) as student:
        loader = loader_of(student, StatefulDataLoader, num_workers=workers)
        loader.load_state_dict(state)
        assert [firsts(loader) for _ in range(4)] == [
            PASSES[1][count:],
            PASSES[2],
            PASSES[0],
            PASSES[1],
        ]


def test_a_pass_of_no_batches_is_read_in_its_turn(tmp_path: Path) -> None:
    teach(FileSink(tmp_path / "short.avro"), 3, passes=2)
    with student_of(tmp_path / "short.avro") as student:
        dataset = student.dataset(5, drop_last=True)
        assert [firsts(DataLoader(dataset, batch_size=None, num_workers=1)) for _ in range(3)] == [
            [],
            [],
            [],
        ]
        assert firsts(student.knowledge(5)) == [0]
        assert student.pass_index == 2
