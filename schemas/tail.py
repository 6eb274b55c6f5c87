"""The heads of the records in a sink -> the first missing record, where the teacher continues.

Knows no sinks, files or brokers.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from tutelage.schemas.errors import LengthMismatch
from tutelage.schemas.record import Description, RecordHead, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Tail:
    """How much of a run a sink holds.

    Args:
        stream: The run's identity.
        description: What its records hold.
        pass_index: The pass of the first missing record.
        sequence: The number of the first missing record in its pass.
        generation: The highest generation of any writer so far.
        complete: Whether all records of the run are in the sink.
        finished: Whether the run is complete and sealed: a file, for example, is renamed already.
        last: The last head that the sink holds of the pass of the first missing record, or, where
            the run is complete, of the last pass.
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

    def check_row_count(self, rows: int, where: str, *, ended: bool) -> None:
        """Check that the inputs of a continued pass are as long as the records that the sink holds.

        Args:
            rows: The rows that the inputs gave so far.
            where: The sink, for the message.
            ended: Whether the inputs have ended.

        Raises:
            LengthMismatch: The inputs ended before the records do, or go on where the pass ended.
        """
        last = self.last
        if last is None:
            return
        size = self.stream.rows_per_record
        least = last.end.rows if last.end is not None else last.sequence * size + last.rows
        exact = last.end is not None or last.rows < size
        if (ended and rows < least) or (exact and rows > least):
            raise LengthMismatch(
                f"{where} holds {least} rows of pass {self.pass_index} already, but the inputs "
                f"gave {rows} this time; a continued run must read the same inputs again from the "
                "beginning"
            )


def next_record(heads: list[RecordHead], partition: int, partitions: int) -> tuple[int, int]:
    """Find the first missing record of one partition.

    Args:
        heads: The heads that the partition holds.
        partition: Its number.
        partitions: The number of partitions.

    Returns:
        The pass and sequence of the record.
    """
    if not heads:
        return 0, partition
    last = max(heads, key=lambda head: (head.pass_index, head.end is not None, head.sequence))
    if last.end is not None:
        return last.pass_index + 1, partition
    return last.pass_index, last.sequence + partitions


def is_missing(head: RecordHead, missing: tuple[int, int]) -> bool:
    """Whether a partition lacks a record, given the pass and sequence of its first missing one.

    An end record is missing until its pass is complete.
    """
    pass_index, sequence = missing
    return head.pass_index > pass_index or (
        head.pass_index == pass_index and (head.end is not None or head.sequence >= sequence)
    )


def tail_from_heads(
    stream: Stream,
    description: Description,
    heads: list[list[RecordHead]],
    owned: Collection[int] | None = None,
) -> tuple[Tail, list[tuple[int, int]]]:
    """Compute the tail of a run, or of some of its partitions.

    Args:
        stream: The run's identity.
        description: What its records hold.
        heads: For each partition, the heads of the records at its end.
        owned: The partitions that the tail is of; all if None.

    Returns:
        The tail, and the pass and sequence of each partition's first missing record.
    """
    missing = [next_record(found, partition, len(heads)) for partition, found in enumerate(heads)]
    mine = range(len(heads)) if owned is None else owned
    pass_index, sequence = min(missing[partition] for partition in mine)
    complete = pass_index >= stream.passes
    heads_of_mine = [head for partition in mine for head in heads[partition]]
    found_of_pass = [head for head in heads_of_mine if head.pass_index == pass_index - complete]
    tail = Tail(
        stream=stream,
        description=description,
        pass_index=pass_index,
        sequence=sequence,
        generation=max((head.generation for head in heads_of_mine), default=0),
        complete=complete,
        finished=complete,
        last=max(
            found_of_pass, key=lambda head: (head.end is not None, head.sequence), default=None
        ),
    )
    return tail, missing
