"""Programs of several ranks, all in this process: each rank is a student of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch

from tutelage import MemorySink, MemorySource, MemoryTopic, Sampled, Sink, Source, Student, Teacher

#: Returns a new source of each teacher.
Sources = Callable[[], list[Source]]


class Rank:
    """One rank's student and the batches that it gives."""

    def __init__(self, student: Student, **request: Any) -> None:
        self.student = student
        self.request = {"weight_key": "weight", "position_key": "position", **request}
        self.begin()

    def begin(self) -> None:
        """Begin a pass."""
        self.batches = self.student.knowledge(**self.request)


@contextmanager
def ranks_of(
    sources: Sources,
    world: int,
    *,
    state: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **request: Any,
) -> Iterator[list[Rank]]:
    """The ranks of a program; `options` are for the students, the request for `knowledge`."""
    with ExitStack() as stack:
        found = []
        for rank in range(world):
            made = sources()
            merge = dict.fromkeys(("id", "text", "logits"), "first") if len(made) > 1 else None
            student = Student(merge, shard=(rank, world), timeout_s=30, **(options or {}))
            for source in made:
                student.register_teacher(source)
            stack.enter_context(student)
            if state is not None:
                student.load_state_dict(state)
            found.append(Rank(student, **request))
            stack.callback(found[-1].batches.close)
        yield found


def write_rows(sink: Sink, rows: int, *, name: str, rows_per_record: int, passes: int = 1) -> None:
    """Write `id`, the number of each row plus 1000 a pass, and what depends on it."""
    wire = {"logits": Sampled(5)}
    with Teacher(
        sink,
        name=name,
        run_id=f"run-{rows}",
        passes=passes,
        rows_per_record=rows_per_record,
        wire=wire,
        ragged_keys=["text"],
    ) as teacher:
        for index in range(passes):
            for start in range(0, rows, 7):
                teacher.write(knowledge(range(start, min(rows, start + 7)), index, name))
            teacher.end_pass()


def knowledge(rows: range, index: int, name: str) -> dict[str, Any]:
    """What a teacher knows of some rows: dense, ragged and encoded keys."""
    ids = torch.tensor(rows, dtype=torch.int64) + 1000 * index
    generator = torch.Generator().manual_seed(int(ids[0]))
    return {
        "id": ids,
        f"x-{name}": ids.float().unsqueeze(1) * torch.ones(1, 3),
        "text": [torch.full((int(each) % 3,), int(each), dtype=torch.int32) for each in ids],
        "logits": torch.randn(len(ids), 2, 11, generator=generator),
    }


@pytest.fixture
def topics() -> Callable[..., Sources]:
    """Makes topics that teachers have written, and returns their sources."""

    def make(rows: int, *teachers: tuple[int, int], passes: int = 1) -> Sources:
        made = []
        for number, (rows_per_record, partitions) in enumerate(teachers):
            topic = MemoryTopic(name=f"topic{number}", partitions=partitions)
            write_rows(
                MemorySink(topic),
                rows,
                name=f"teacher{number}",
                rows_per_record=rows_per_record,
                passes=passes,
            )
            made.append(topic)
        return lambda: [MemorySource(topic) for topic in made]

    return make
