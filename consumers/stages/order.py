"""Partitions -> one stream: records in sequence order, duplicates dropped, gaps refused.

Records enter partition by partition, each partition in offset order, interleaved in any way. They
leave in sequence order: record s comes from partition s mod P. No threads or clocks, and no I/O but
one: a record that is still in its file is read here if it is not the one expected next.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.stage import LastItem
from tutelage.schemas.errors import CorruptData, RunMismatch, SequenceGap
from tutelage.schemas.record import End, Record, RecordHead, Stream
from tutelage.schemas.topic import BEGINNING, first_in, partition_for

# Memory for the objects of one end record.
_END_BYTES = 1 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class PassEnd(LastItem):
    """The end of a pass whose records all came.

    Args:
        end: How many records and rows the pass has.
        record: The end record.
        next_pass: The position of the next pass's first record.
    """

    end: End
    record: Record
    next_pass: Position


@dataclass(frozen=True, kw_only=True, slots=True)
class _KnownEnd:
    """What the first end record of a pass says, and where it lies."""

    end: End
    record: Record
    where: str
    #: Partition -> the offset behind its end record, for the partitions whose end came.
    offsets: dict[int, int] = field(default_factory=dict)


class Order:
    """Puts the records of one stream in order, from a position on.

    Guarantee: each pass leaves as records 0, 1, 2 ... without gaps or repeats. Each record is the
    first of its number by offset. A pass ends only when every partition holds its end and the end
    counts the records and rows that came. Anything else raises RunMismatch, SequenceGap or
    CorruptData.

    Args:
        stream: The run.
        partitions: The partitions in which its records are.
        position: Where reading begins.
        needed: The partitions whose records are needed; all if not given. Those of the others are
            left out, and nothing is said about them.
    """

    def __init__(
        self,
        stream: Stream,
        partitions: int,
        position: Position,
        *,
        needed: frozenset[int] | None = None,
    ) -> None:
        self._stream = stream
        self._partitions = partitions
        self._needed = frozenset(range(partitions)) if needed is None else needed
        self._start = (position.pass_index, position.sequence)
        self._expected = [
            (position.pass_index, first_in(partition, position.sequence, partitions))
            for partition in range(partitions)
        ]
        self._pass, self._sequence = position.pass_index, self._next_needed(position.sequence)
        self._pending: list[deque[ConsumedRecord]] = [deque() for _ in range(partitions)]
        self._ends: dict[int, _KnownEnd] = {}
        self._newest = [0] * partitions
        # Pass -> the number and rows of its record that is shorter than the others.
        self._short: dict[int, tuple[int, int]] = {}
        #: Records that were written twice, and dropped.
        self.duplicates = 0
        #: Records that a writer wrote after another had taken over its run.
        self.zombies = 0
        #: Avro bytes of the records that wait for an earlier one.
        self.pending_bytes = 0
        #: Approximate memory that they take, ends included.
        self.memory_bytes = 0

    @property
    def waiting_for(self) -> tuple[int, str]:
        """A partition that the stream waits for, and what it must bring, in words."""
        what = "the end" if self._all_records_came() else f"record {self._sequence}"
        return min(self._awaited()), f"{what} of pass {self._pass}"

    def others(self) -> frozenset[int]:
        """The partitions that are not needed now: what must come next lies in the others."""
        return self._needed - self._awaited()

    def _next_needed(self, sequence: int) -> int:
        """The first number from `sequence` on whose record lies in a partition that is needed."""
        while sequence % self._partitions not in self._needed:
            sequence += 1
        return sequence

    def _awaited(self) -> frozenset[int]:
        """The next record's partition; after the last record, the partitions without an end."""
        # Other threads read this while the stage's thread changes it.
        known = self._ends.get(self._pass)
        if known is not None and self._sequence >= known.end.records:
            missing = self._needed - known.offsets.keys()
            if missing:
                return missing
        return frozenset((partition_for(self._sequence, self._partitions),))

    def _all_records_came(self) -> bool:
        known = self._ends.get(self._pass)
        return known is not None and self._sequence >= known.end.records

    def push(self, consumed: ConsumedRecord) -> None:
        """Take a record as it came from its partition.

        A record whose header is not the expected one is loaded, which verifies its checksum, before
        anything is concluded from it.

        Raises:
            RunMismatch: It belongs to another run or partition, or its end contradicts another.
            SequenceGap: Records are missing before it.
            CorruptData: It has other rows than a record of its run may have, or is damaged.
        """
        if consumed.partition not in self._needed:
            return
        if not self._is_expected(consumed):
            consumed = consumed.loaded()
        head, partition = consumed.record.head, consumed.partition
        if head.run_id != self._stream.run_id:
            raise RunMismatch(
                f"{consumed.where}: a record of run {head.run_id}, although its place and headers "
                f"are of {self._stream}"
            )
        key = (head.pass_index, head.sequence)
        expected = self._expected[partition]
        if key < self._start and not (head.end is not None and head.pass_index == self._start[0]):
            # It lies before the position: it was read again, not written again.
            return
        if head.pass_index < expected[0] or (
            head.pass_index == expected[0] and head.end is None and key < expected
        ):
            self.duplicates += 1
            return
        if head.pass_index > expected[0]:
            raise SequenceGap(
                f"{consumed.where}: {head} came, but the end of pass {expected[0]} is missing in "
                "this partition"
            )
        if head.generation < self._newest[partition]:
            self.zombies += 1
        self._newest[partition] = max(self._newest[partition], head.generation)
        if head.end is None:
            self._take(consumed, expected)
        else:
            self._take_end(consumed, head.end, expected)

    def _is_expected(self, consumed: ConsumedRecord) -> bool:
        """Whether a record's header is the one that must come next in its partition."""
        head = consumed.record.head
        return (
            head.end is None
            and head.run_id == self._stream.run_id
            and (head.pass_index, head.sequence) == self._expected[consumed.partition]
            and partition_for(head.sequence, self._partitions) == consumed.partition
        )

    def _take(self, consumed: ConsumedRecord, expected: tuple[int, int]) -> None:
        head = consumed.record.head
        if head.sequence > expected[1]:
            missing = (head.sequence - expected[1] + self._partitions - 1) // self._partitions
            raise SequenceGap(
                f"{consumed.where}: {head} came, but record {expected[1]} must be next in this "
                f"partition; {missing} records are missing"
            )
        if partition_for(head.sequence, self._partitions) != consumed.partition:
            raise RunMismatch(
                f"{consumed.where}: {head} does not belong in this partition of {self._partitions}"
            )
        size = self._stream.rows_per_record
        if head.rows > size:
            raise CorruptData(
                f"{consumed.where}: {head} has {head.rows} rows, the run has {size} a record"
            )
        if head.rows < size:
            # Only a pass's last record is shorter.
            before, _ = self._short.setdefault(head.pass_index, (head.sequence, head.rows))
            if before != head.sequence:
                raise CorruptData(
                    f"{consumed.where}: {head} has {head.rows} rows of {size}, and so has record "
                    f"{before}: only the last may"
                )
        self._pending[consumed.partition].append(consumed)
        self.pending_bytes += consumed.record.nbytes
        self.memory_bytes += consumed.memory_bytes
        self._expected[consumed.partition] = (head.pass_index, head.sequence + self._partitions)

    def _take_end(self, consumed: ConsumedRecord, end: End, expected: tuple[int, int]) -> None:
        head, partition = consumed.record.head, consumed.partition
        known = self._ends.setdefault(
            head.pass_index,
            _KnownEnd(end=end, record=consumed.record.load(), where=consumed.where),
        )
        if known.end != end or head.sequence != end.records:
            raise RunMismatch(
                f"{consumed.where}: {head} says {_counts(end)}, another end of the pass "
                f"{_counts(known.end)}; the teacher's inputs changed"
            )
        if expected[1] < end.records:
            raise SequenceGap(
                f"{consumed.where}: pass {head.pass_index} ends with {_counts(end)}, but record "
                f"{expected[1]} is missing here"
            )
        if expected[1] != first_in(partition, end.records, self._partitions):
            raise RunMismatch(
                f"{consumed.where}: pass {head.pass_index} ends with {_counts(end)}, but this "
                "partition holds more"
            )
        known.offsets[partition] = consumed.next_offset
        # A partition may hold the ends of any number of passes.
        self.memory_bytes += _END_BYTES
        self._expected[partition] = (head.pass_index + 1, partition)

    def pop(self) -> ConsumedRecord | PassEnd | None:
        """Return the next record in order, or the end of the pass; None until more records came.

        Raises:
            CorruptData: The pass has a short record that is not its last, or its end counts other
                rows than came.
        """
        pending = self._pending[partition_for(self._sequence, self._partitions)]
        if pending and pending[0].record.head.pass_index == self._pass:
            consumed = pending.popleft()
            self.pending_bytes -= consumed.record.nbytes
            self.memory_bytes -= consumed.memory_bytes
            self._check_none_was_short(consumed.record.head, consumed.where)
            self._sequence = self._next_needed(self._sequence + 1)
            return consumed
        known = self._ends.get(self._pass)
        if (
            known is None
            or self._sequence < known.end.records
            or len(known.offsets) < len(self._needed)
        ):
            return None
        self._check_rows(known)
        return self._ended(known)

    def _check_none_was_short(self, head: RecordHead, where: str) -> None:
        short = self._short.get(head.pass_index)
        if short is not None and short[0] < head.sequence:
            raise CorruptData(
                f"{where}: {head} comes behind record {short[0]}, which is short: only a pass's last "
                "record may be"
            )

    def _check_rows(self, known: _KnownEnd) -> None:
        """Compare the end's rows with those that came: all records are full but the last.

        If the last record was not read, because reading began behind it or it is in a partition
        that is not needed, only the number of records can be compared.
        """
        size, ended, last = self._stream.rows_per_record, known.end.rows, known.end.records - 1
        first = self._start[1] if self._pass == self._start[0] else 0
        short, rows = self._short.get(self._pass, (last, size))
        came = last * size + rows if last >= 0 else 0
        was_read = last >= first and partition_for(last, self._partitions) in self._needed
        least, most = (came, came) if was_read else (last * size + 1, (last + 1) * size)
        if short != last or not (least <= ended <= most or ended == last + 1 == 0):
            raise CorruptData(
                f"{known.where}: pass {self._pass} ends with {ended:,} rows, but {came:,} came"
            )

    def _ended(self, known: _KnownEnd) -> PassEnd:
        del self._ends[self._pass]
        self.memory_bytes -= _END_BYTES * len(known.offsets)
        self._short.pop(self._pass, None)
        self._pass += 1
        self._sequence = self._next_needed(0)
        position = Position(
            pass_index=self._pass,
            offsets=tuple(
                known.offsets.get(partition, BEGINNING) for partition in range(self._partitions)
            ),
        )
        return PassEnd(end=known.end, record=known.record, next_pass=position)


def _counts(end: End) -> str:
    return f"{end.records} records, {end.rows} rows"
