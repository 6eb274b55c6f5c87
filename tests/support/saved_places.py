"""Checkpoints of a student of two teachers, and whether a place can be such a student's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.originals import DENSE
from support.streams import stream_of

from tutelage import MemorySource, MemoryTopic
from tutelage.consumers.checkpoint_file import save_checkpoint
from tutelage.consumers.position import Position
from tutelage.consumers.resume_state import ResumeState, from_state_dict, to_state_dict
from tutelage.consumers.sources.base import StreamInfo
from tutelage.schemas.knowledge_schema import schema_from_description


class ImplausiblePlace(AssertionError):
    """A checkpoint gave a place that no student can be at."""


def opened_of(partitions: int) -> tuple[MemorySource, StreamInfo]:
    """A source, and what it found."""
    source = MemorySource(MemoryTopic(name="topic", partitions=partitions))
    stream = stream_of(partitions=partitions, rows_per_record=3)
    return source, StreamInfo(
        stream=stream,
        description=DENSE,
        schema=schema_from_description(DENSE),
        partitions=partitions,
    )


SETTINGS = {"merge": {"x": "mean"}, "sample_id": None, "on_length_mismatch": "error"}


def state_at(positions: Sequence[Position]) -> dict[str, Any]:
    """The state of a student of sources with as many partitions as their positions have offsets, two batches of 4 delivered."""
    sources, opened = zip(
        *(opened_of(len(position.offsets)) for position in positions), strict=True
    )
    place = ResumeState(
        batches=2, rows=8, positions=tuple(positions), batch_size=4, drop_last=False
    )
    state: dict[str, Any] = json.loads(json.dumps(to_state_dict(place, sources, opened, SETTINGS)))
    return state


def checkpoint_of(state: Mapping[str, Any]) -> bytes:
    """A state as it lies in a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        save_checkpoint(path, state)
        return path.read_bytes()


def place_in(state: Mapping[str, Any]) -> None:
    """Restore a state of `POSITIONS`. ImplausiblePlace if no student can be there."""
    sources, opened = zip(
        *(opened_of(len(position.offsets)) for position in POSITIONS), strict=True
    )
    refuse_implausible(from_state_dict(state, sources, opened, SETTINGS), opened)


POSITIONS = (Position(sequence=2, row=2, offsets=(1, 1)), Position(sequence=2, row=2, offsets=(2,)))


def refuse_implausible(place: ResumeState, opened: Sequence[StreamInfo]) -> None:
    """ImplausiblePlace if a student of such streams cannot have been there."""
    numbers = [place.pass_index, place.batches, place.rows]
    for position, found in zip(place.positions_of(len(opened)), opened, strict=True):
        numbers += [
            position.pass_index,
            position.sequence,
            position.row,
            *(offset + 1 for offset in position.offsets),
        ]
        alike = position.row < found.stream.rows_per_record and len(position.offsets) in (
            0,
            found.partitions,
        )
        if not alike or min(numbers) < 0:
            raise ImplausiblePlace(str(place))
