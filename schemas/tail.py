"""What is there of a run -> the first record that is missing: where its teacher goes on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.record import Description, RecordHead, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """What a sink holds of a run: who wrote it, and the first record that is missing.

    `pass_index` and `sequence` name that record; `complete` says that none is. `generation` is the highest found. `last` is the pass's
    last record that is there, or its end (of a complete run the last pass's). `finished` says that nothing at all is left to do, not even
    to name a file. `newest_s` is the time of the newest record that lies there, of any run, in seconds since the epoch.
    """

    stream: Stream
    description: Description
    pass_index: int
    sequence: int
    generation: int
    complete: bool
    finished: bool
    last: RecordHead | None = None
    newest_s: float = 0.0

    def refuse_other_length(self, rows: int, where: str, *, ended: bool) -> None:
        """LengthMismatch if a continued pass came to more rows than what is there allows, or has ended with fewer."""
        last = self.last
        if last is None:
            return
        size = self.stream.rows_per_record
        least = last.end.rows if last.end is not None else last.sequence * size + last.rows
        exact = last.end is not None or last.rows < size
        if (ended and rows < least) or (exact and rows > least):
            raise LengthMismatch(
                f"{where} holds {least} rows of pass {self.pass_index} already, but the inputs gave {rows} this time; a continued run "
                "must read the same inputs again from the beginning"
            )


def next_record(heads: list[RecordHead], partition: int, partitions: int) -> tuple[int, int]:
    """Pass and sequence of the first record missing in a partition that holds these heads, in offset order, without gaps."""
    if not heads:
        return 0, partition
    last = max(heads, key=lambda head: (head.pass_index, head.end is not None, head.sequence))
    if last.end is not None:
        return last.pass_index + 1, partition
    return last.pass_index, last.sequence + partitions


def is_missing(head: RecordHead, missing: tuple[int, int]) -> bool:
    """Whether a partition whose first missing record is `missing` lacks this one. An end is missing as long as its pass is."""
    pass_index, sequence = missing
    return head.pass_index > pass_index or (
        head.pass_index == pass_index and (head.end is not None or head.sequence >= sequence)
    )


def tail_of(stream: Stream, description: Description, heads: list[list[RecordHead]]) -> tuple[Tail, list[tuple[int, int]]]:
    """The tail of a run from the heads at the end of each partition, and each partition's first missing record."""
    missing = [next_record(found, partition, len(heads)) for partition, found in enumerate(heads)]
    pass_index, sequence = min(missing)
    complete = pass_index >= stream.passes
    found_of_pass = [head for found in heads for head in found if head.pass_index == pass_index - complete]
    tail = Tail(
        stream=stream,
        description=description,
        pass_index=pass_index,
        sequence=sequence,
        generation=max((head.generation for found in heads for head in found), default=0),
        complete=complete,
        finished=complete,
        last=max(found_of_pass, key=lambda head: (head.end is not None, head.sequence), default=None),
    )
    return tail, missing
