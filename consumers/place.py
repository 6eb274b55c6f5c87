"""Where a student is in its teachers' streams, and that place as plain values: what a checkpoint holds.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from tutelage.consumers.checkpoint import VERSION
from tutelage.consumers.sources.base import Position, Source, StreamInfo
from tutelage.schemas.errors import ConfigurationError, CorruptData, RunMismatch, TopicIdentityError

# Brokers, files and clients count in 64 bits.
_BEYOND = 2**63


class Behind(Protocol):
    """Batches that know the positions behind each of them."""

    def after(self, index: int) -> tuple[Position, ...]:
        """The teachers' positions behind batch `index`."""


@dataclass(kw_only=True, slots=True)
class Place:
    """The pass a student is in, where that began, what was delivered of it, and each source's position now.

    Positions are None where they are not known: reading then begins at the run's first record and passes over earlier passes. Where the
    last batch was the one of number `index` of some that were merged together, they are found out when somebody asks.
    """

    pass_index: int = 0
    batches: int = 0
    rows: int = 0
    began: tuple[Position, ...] | None = None
    positions: tuple[Position, ...] | None = None
    batch_size: int | None = None
    drop_last: bool | None = None
    merged: Behind | None = None
    index: int = 0

    def of(self, sources: int) -> tuple[Position, ...]:
        """Each source's position."""
        if self.merged is not None:
            self.positions, self.merged = self.merged.after(self.index), None
        return self.positions or tuple(Position(pass_index=self.pass_index) for _ in range(sources))

    def begun_again(self) -> Place:
        """The beginning of this pass."""
        return Place(pass_index=self.pass_index, began=self.began, positions=self.began)

    def following(self, positions: tuple[Position, ...]) -> Place:
        """The beginning of the next pass, the sources being at these positions."""
        following = self.pass_index + 1
        # Where a longer teacher was truncated, its position is still in the old pass; its offsets are good for the new one.
        positions = tuple(
            position
            if position.pass_index == following
            else Position(pass_index=following, offsets=position.offsets)
            for position in positions
        )
        return Place(pass_index=following, began=positions, positions=positions)

    def within(self, passes: int, pass_index: int | None) -> Place:
        """This place, or the first pass's beginning if all were read to their end; or the beginning of the pass that is asked for."""
        place = self if self.pass_index < passes else Place()
        if pass_index is None or pass_index == place.pass_index:
            return place
        if not 0 <= pass_index < passes:
            raise ConfigurationError(
                f"pass_index is {pass_index}; the teachers write {passes} passes, from 0"
            )
        return Place(pass_index=pass_index)

    def refuse_unlike(self, batch_size: int, drop_last: bool, pass_index: int | None) -> None:
        """RunMismatch, with the difference, if a place from a checkpoint does not fit what is asked for now."""
        asked = (
            ("batch_size", self.batch_size, batch_size),
            ("drop_last", self.drop_last, drop_last),
            ("pass_index", self.pass_index, self.pass_index if pass_index is None else pass_index),
        )
        differs = [
            f"{name} was {then!r}, is {now!r}"
            for name, then, now in asked
            if then is not None and then != now
        ]
        if differs:
            raise RunMismatch(f"the checkpoint does not fit this iteration: {'; '.join(differs)}")


def state_of(
    place: Place,
    sources: Sequence[Source],
    opened: Sequence[StreamInfo],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """A place as JSON-like values; `settings` are what must be the same for the batches to be the same."""
    return {
        "version": VERSION,
        "pass_index": place.pass_index,
        "batches": place.batches,
        "rows": place.rows,
        "batch_size": place.batch_size,
        "drop_last": place.drop_last,
        "settings": dict(settings),
        "sources": [
            _source_state(source.name, found, source.identity(), position)
            for source, found, position in zip(sources, opened, place.of(len(sources)), strict=True)
        ],
    }


def place_of(
    state: Mapping[str, Any],
    sources: Sequence[Source],
    opened: Sequence[StreamInfo],
    settings: Mapping[str, Any],
) -> Place:
    """The place of a state, which must be of these sources and settings. RunMismatch, TopicIdentityError or CorruptData if it is not."""
    saved = state.get("settings")
    if not isinstance(saved, Mapping):
        raise CorruptData("the checkpoint names no settings; it is no student's")
    differs = [
        f"{name} was {saved.get(name)!r}, is {settings.get(name)!r}"
        for name in dict.fromkeys((*saved, *settings))
        if saved.get(name) != settings.get(name)
    ]
    if differs:
        raise RunMismatch(f"the checkpoint was taken with other settings: {'; '.join(differs)}")
    positions = tuple(
        _restored_position(part, source.name, found, source.identity())
        for part, source, found in zip(state["sources"], sources, opened, strict=True)
    )
    try:
        place = Place(
            pass_index=_count(state["pass_index"]),
            batches=_count(state["batches"]),
            rows=_count(state["rows"]),
            positions=positions,
            batch_size=state["batch_size"],
            drop_last=state["drop_last"],
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptData(f"the checkpoint's counts are broken: {error!r}") from error
    if min(place.pass_index, place.batches, place.rows) < 0:
        raise CorruptData(
            f"the checkpoint counts pass {place.pass_index}, {place.batches} batches, {place.rows} rows"
        )
    for source, found, position in zip(sources, opened, positions, strict=True):
        _refuse_implausible(source.name, found, position, place)
    return place


def _count(value: Any) -> int:
    """A whole number of 64 bits, from a state; TypeError or OverflowError for anything else, such as a text or a fraction."""
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    number = operator.index(value)
    if not -_BEYOND <= number < _BEYOND:
        raise OverflowError("a number of more than 64 bits")
    return number


def _source_state(
    name: str, opened: StreamInfo, identity: Mapping[str, str], position: Position
) -> dict[str, Any]:
    """One source's part of a state: where it is, and what must be the same for that to mean anything."""
    stream = opened.stream
    return {
        "source": name,
        "run_id": stream.run_id,
        "rows_per_record": stream.rows_per_record,
        "partitions": opened.partitions,
        "identity": dict(identity),
        "position": {**asdict(position), "offsets": list(position.offsets)},
    }


def _restored_position(
    saved: Mapping[str, Any], name: str, opened: StreamInfo, identity: Mapping[str, str]
) -> Position:
    """The position in a source's state. RunMismatch or TopicIdentityError, with the difference, if it is of something else."""
    stream = opened.stream
    now = {
        "run_id": stream.run_id,
        "rows_per_record": stream.rows_per_record,
        "partitions": opened.partitions,
    }
    for field, value in now.items():
        if saved.get(field) != value:
            raise RunMismatch(
                f"the checkpoint was taken from {saved.get('source')} with {field} {saved.get(field)!r}; {name} has {value!r}"
            )
    if saved.get("identity") != dict(identity):
        raise TopicIdentityError(
            f"the checkpoint was taken from {saved.get('source')} of {saved.get('identity')}; {name} is of {dict(identity)}: it was recreated, "
            "or is on another cluster"
        )
    try:
        position = dict(saved["position"])
        numbers = {name: _count(position[name]) for name in ("pass_index", "sequence", "row")}
        return Position(**numbers, offsets=tuple(_count(offset) for offset in position["offsets"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptData(f"the checkpoint's position in {name} is broken: {error}") from error


def _refuse_implausible(name: str, opened: StreamInfo, position: Position, place: Place) -> None:
    """CorruptData if no student could be at a position: numbers that are none, or that contradict the rows that were delivered."""
    size = opened.stream.rows_per_record
    before = position.sequence * size
    possible = (
        position.pass_index == place.pass_index <= opened.stream.passes
        and position.sequence >= 0
        and 0 <= position.row < size
        and len(position.offsets) in (0, opened.partitions)
        and all(offset >= -1 for offset in position.offsets)
        # Behind a pass's last record, which may be short, its rows are fewer than its records could hold.
        and (
            before + position.row == place.rows
            or (position.row == 0 and before - size < place.rows < before)
        )
    )
    if not possible:
        raise CorruptData(
            f"the checkpoint's position in {name} cannot be: pass {position.pass_index}, record {position.sequence}, row {position.row}, "
            f"offsets {list(position.offsets)}, where {place.rows} rows of pass {place.pass_index} were delivered"
        )
