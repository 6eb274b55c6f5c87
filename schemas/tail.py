"""The records of a run that a sink holds -> the first one that is missing, where the teacher goes on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.record import Description, RecordHead, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """What a sink holds of a run: who wrote it, and the first record that is missing.

    Args:
        stream: The run's identity.
        description: What its records hold.
        pass_index: The pass of the first missing record.
        sequence: That record's number in its pass.
        generation: The highest generation of any writer so far.
        complete: Whether no record is missing.
        finished: Whether nothing is left to do, not even to rename a file.
        last: The last record of the pass that is there, or its end.
        newest_s: The time of the newest record in the sink, of any run, in seconds since the epoch.
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
        """Raise LengthMismatch if a continued pass has more rows than the sink allows, or ended with fewer."""
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
    """The pass and sequence of the first record that is missing in a partition, given the heads it holds in offset order."""
    if not heads:
        return 0, partition
    last = max(heads, key=lambda head: (head.pass_index, head.end is not None, head.sequence))
    if last.end is not None:
        return last.pass_index + 1, partition
    return last.pass_index, last.sequence + partitions


def is_missing(head: RecordHead, missing: tuple[int, int]) -> bool:
    """Whether a partition lacks a record, given its first missing one. An end is missing until its pass is whole."""
    pass_index, sequence = missing
    return head.pass_index > pass_index or (
        head.pass_index == pass_index and (head.end is not None or head.sequence >= sequence)
    )


def tail_of(
    stream: Stream, description: Description, heads: list[list[RecordHead]]
) -> tuple[Tail, list[tuple[int, int]]]:
    """The tail of a run from the heads at the end of each partition, and each partition's first missing record."""
    missing = [next_record(found, partition, len(heads)) for partition, found in enumerate(heads)]
    pass_index, sequence = min(missing)
    complete = pass_index >= stream.passes
    found_of_pass = [
        head for found in heads for head in found if head.pass_index == pass_index - complete
    ]
    tail = Tail(
        stream=stream,
        description=description,
        pass_index=pass_index,
        sequence=sequence,
        generation=max((head.generation for found in heads for head in found), default=0),
        complete=complete,
        finished=complete,
        last=max(
            found_of_pass, key=lambda head: (head.end is not None, head.sequence), default=None
        ),
    )
    return tail, missing
