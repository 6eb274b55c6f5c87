"""Where a student is in its teachers' streams, and the same as plain values: a checkpoint's content.

Pure: no I/O, threads or clocks.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.consumers.checkpoint_file import VERSION
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.schemas.errors import (
    ConfigurationError,
    CorruptData,
    RunMismatch,
    TopicIdentityError,
)

# Brokers, files and clients count in 64 bits.
_BEYOND = 2**63


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeState:
    """Where a student is in its pass.

    Args:
        pass_index: The pass.
        batches: Batches of the pass that were given.
        rows: Rows of the pass that were given.
        began: Each source's position where the pass began, if it is known.
        positions: Each source's position now. If they are not known, reading begins at the run's
            first record and passes over earlier passes.
        batch_size: Rows in a batch, once a pass was begun.
        drop_last: Whether a shorter last batch is left out, once a pass was begun.
        shuffle: How rows are shuffled, as plain values; empty for the teachers' order.
    """

    pass_index: int = 0
    batches: int = 0
    rows: int = 0
    began: tuple[Position, ...] | None = None
    positions: tuple[Position, ...] | None = None
    batch_size: int | None = None
    drop_last: bool | None = None
    shuffle: tuple[int, ...] = ()

    def positions_of(self, sources: int) -> tuple[Position, ...]:
        """Each source's position."""
        return self.positions or (Position(pass_index=self.pass_index),) * sources

    def restarted(self) -> ResumeState:
        """The beginning of this pass."""
        return ResumeState(pass_index=self.pass_index, began=self.began, positions=self.began)

    def without_offsets(self, *, truncated: bool = False) -> ResumeState:
        """The same without the offsets, which are those of one rank.

        Args:
            truncated: Whether a pass ends at the shortest teacher: a rank may not have seen how many
                records the others have, so that is left out too.
        """
        if self.positions is None:
            return self
        positions = tuple(
            replace(position, offsets=(), before=() if truncated else position.before)
            for position in self.positions
        )
        return replace(self, positions=positions)

    def next_pass(self, positions: tuple[Position, ...]) -> ResumeState:
        """The beginning of the next pass, where the sources are at these positions."""
        index = self.pass_index + 1
        # The position of a longer teacher that was truncated is still in the old pass. Its offsets
        # are good for the new one: reading passes over the rest of the old pass.
        positions = tuple(
            position
            if position.pass_index == index
            else Position(pass_index=index, offsets=position.offsets)
            for position in positions
        )
        return ResumeState(pass_index=index, began=positions, positions=positions)

    def for_pass(self, passes: int, pass_index: int | None) -> ResumeState:
        """The state to begin the pass `pass_index` from, or the next pass if that is None.

        Behind the last of `passes` passes, the first one is next.

        Raises:
            ConfigurationError: There is no such pass.
        """
        state = self if self.pass_index < passes else ResumeState()
        if pass_index is None or pass_index == state.pass_index:
            return state
        if not 0 <= pass_index < passes:
            raise ConfigurationError(
                f"pass_index is {pass_index}; the teachers write {passes} passes, from 0"
            )
        return ResumeState(pass_index=pass_index)

    def behind_end(
        self, passes: int, pass_index: int | None, rows_of: Callable[[int], int | None]
    ) -> ResumeState:
        """The beginning of the next pass, if this is the end of one and the next one is asked for.

        Args:
            passes: How many there are; behind the last, the first one is next.
            pass_index: The pass that is asked for; None for the one of the state.
            rows_of: A pass -> its rows, None if they are not known.
        """
        if self.pass_index >= passes:
            return ResumeState()
        following = (self.pass_index + 1) % passes
        if pass_index == following != self.pass_index and rows_of(self.pass_index) == self.rows:
            return ResumeState(pass_index=following)
        return self

    def check_fits(
        self,
        batch_size: int,
        drop_last: bool,
        pass_index: int | None,
        shuffle: tuple[int, ...] = (),
    ) -> None:
        """Check that a state from a checkpoint fits the pass that is asked for now.

        Raises:
            RunMismatch: It does not; the message names the difference.
        """
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
        if self.batches and self.shuffle != shuffle:
            # The rows that were given are the first ones of another order.
            differs.append(f"shuffle was {list(self.shuffle)}, is {list(shuffle)}")
        if differs:
            raise RunMismatch(f"the checkpoint does not fit this iteration: {'; '.join(differs)}")


def to_state_dict(
    state: ResumeState,
    sources: Sequence[Source],
    opened: Sequence[StreamInfo],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a state as JSON-like values.

    Args:
        state: The state.
        sources: The sources.
        opened: What they found.
        settings: What must be the same for the batches to be the same.
    """
    return {
        "version": VERSION,
        "pass_index": state.pass_index,
        "batches": state.batches,
        "rows": state.rows,
        "batch_size": state.batch_size,
        "drop_last": state.drop_last,
        **({"shuffle": list(state.shuffle)} if state.shuffle else {}),
        "settings": dict(settings),
        "sources": [
            _source_values(source.name, found, source.identity(), position)
            for source, found, position in zip(
                sources, opened, state.positions_of(len(sources)), strict=True
            )
        ],
    }


def from_state_dict(
    values: Mapping[str, Any],
    sources: Sequence[Source],
    opened: Sequence[StreamInfo],
    settings: Mapping[str, Any],
) -> ResumeState:
    """Return the state that `to_state_dict` made of these sources and settings.

    Raises:
        RunMismatch: It is of other runs or settings.
        TopicIdentityError: It is of another topic of the same name.
        CorruptData: It is no student's state, or one that no student can be in.
    """
    saved = values.get("settings")
    if not isinstance(saved, Mapping):
        raise CorruptData("the checkpoint names no settings; it is not a student's")
    differs = [
        f"{name} was {saved.get(name)!r}, is {settings.get(name)!r}"
        for name in dict.fromkeys((*saved, *settings))
        if saved.get(name) != settings.get(name)
    ]
    if differs:
        raise RunMismatch(f"the checkpoint was taken with other settings: {'; '.join(differs)}")
    positions = tuple(
        _restored_position(part, source.name, found, source.identity())
        for part, source, found in zip(values["sources"], sources, opened, strict=True)
    )
    try:
        state = ResumeState(
            pass_index=_whole_number(values["pass_index"]),
            batches=_whole_number(values["batches"]),
            rows=_whole_number(values["rows"]),
            positions=positions,
            batch_size=values["batch_size"],
            drop_last=values["drop_last"],
            shuffle=tuple(_whole_number(number) for number in values.get("shuffle", ())),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptData(f"the checkpoint's counts are broken: {error!r}") from error
    if min(state.pass_index, state.batches, state.rows) < 0:
        raise CorruptData(
            f"the checkpoint counts pass {state.pass_index}, {state.batches} batches, {state.rows} "
            "rows"
        )
    for source, found, position in zip(sources, opened, positions, strict=True):
        _check_plausible(source.name, found, position, state)
    return state


def _whole_number(value: Any) -> int:
    """A whole number of 64 bits; TypeError or OverflowError for anything else."""
    if isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    number = operator.index(value)
    if not -_BEYOND <= number < _BEYOND:
        raise OverflowError("a number of more than 64 bits")
    return number


def _source_values(
    name: str, opened: StreamInfo, identity: Mapping[str, str], position: Position
) -> dict[str, Any]:
    """One source's position, and what must be the same for it to mean anything."""
    stream = opened.stream
    return {
        "source": name,
        "run_id": stream.run_id,
        "rows_per_record": stream.rows_per_record,
        "partitions": opened.partitions,
        "identity": dict(identity),
        "position": {
            "pass_index": position.pass_index,
            "sequence": position.sequence,
            "row": position.row,
            "offsets": list(position.offsets),
            # Where offsets are known nothing has to be found by counting.
            **({} if position.offsets else {"before": list(position.before)}),
        },
    }


def _restored_position(
    saved: Mapping[str, Any], name: str, opened: StreamInfo, identity: Mapping[str, str]
) -> Position:
    """One source's position. RunMismatch or TopicIdentityError if it is of another stream."""
    stream = opened.stream
    now = {
        "run_id": stream.run_id,
        "rows_per_record": stream.rows_per_record,
        "partitions": opened.partitions,
    }
    for field, value in now.items():
        if saved.get(field) != value:
            raise RunMismatch(
                f"the checkpoint was taken from {saved.get('source')} with {field} "
                f"{saved.get(field)!r}; {name} has {value!r}"
            )
    if saved.get("identity") != dict(identity):
        raise TopicIdentityError(
            f"the checkpoint was taken from {saved.get('source')} of {saved.get('identity')}; "
            f"{name} is of {dict(identity)}: it was recreated, or is on another cluster"
        )
    try:
        position = dict(saved["position"])
        numbers = {
            field: _whole_number(position[field]) for field in ("pass_index", "sequence", "row")
        }
        offsets = tuple(_whole_number(offset) for offset in position["offsets"])
        before = tuple(_whole_number(records) for records in position.get("before", ()))
        return Position(**numbers, offsets=offsets, before=before)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CorruptData(f"the checkpoint's position in {name} is broken: {error}") from error


def _check_plausible(name: str, opened: StreamInfo, position: Position, state: ResumeState) -> None:
    """Raise CorruptData if no student can be at a position after the rows that were given."""
    size = opened.stream.rows_per_record
    before = position.sequence * size
    plausible = (
        position.pass_index == state.pass_index <= opened.stream.passes
        and position.sequence >= 0
        and 0 <= position.row < size
        and len(position.offsets) in (0, opened.partitions)
        and all(offset >= -1 for offset in position.offsets)
        and len(position.before) in (0, position.pass_index)
        and min(position.before, default=0) >= 0
        # Behind a pass's last record, which may be short, its rows are fewer than its records
        # could hold.
        and (
            before + position.row == state.rows
            or (position.row == 0 and before - size < state.rows < before)
        )
    )
    if not plausible:
        raise CorruptData(
            f"the checkpoint's position in {name} cannot be: pass {position.pass_index}, record "
            f"{position.sequence}, row {position.row}, offsets {list(position.offsets)}, where "
            f"{state.rows} rows of pass {state.pass_index} were delivered"
        )
