"""Partitions -> one stream: record s is taken from partition s mod P, duplicates are dropped, gaps are fatal.

Pure: no I/O, threads or clocks. Arrivals go in, partition by partition in offset order but interleaved in any way; records come out in
sequence order, the same whatever the interleaving was.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from tutelage.consumers.sources.base import ConsumedRecord, Position
from tutelage.schemas.container_reader import StoredRecord
from tutelage.schemas.errors import CorruptData, RunMismatch, SequenceGap
from tutelage.schemas.record import End, Record, RecordHead, Stream
from tutelage.schemas.topic import partition_of

# The objects around a record's bytes, and around each column's: with tiny records they are nearly all there is.
_OBJECT_BYTES = 1 << 10
_COLUMN_BYTES = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class PassEnd:
    """A pass is whole: how much it held, its end record, and where the next one begins."""

    end: End
    record: Record
    next_pass: Position


class Order:
    """Puts one stream's arrivals in order, from a position on.

    Guarantee: what comes out is 0, 1, 2 ... of each pass without gaps or repeats, each record the first of its number by
    offset, and a pass ends only when every partition holds its end; or RunMismatch, SequenceGap or CorruptData is raised.
    """

    def __init__(self, stream: Stream, partitions: int, position: Position) -> None:
        self._stream = stream
        self._partitions = partitions
        self._start = (position.pass_index, position.sequence)
        self._pass, self._sequence = self._start
        self._expected = [
            (position.pass_index, _first_in(partition, position.sequence, partitions))
            for partition in range(partitions)
        ]
        self._pending: list[deque[ConsumedRecord]] = [deque() for _ in range(partitions)]
        self._ends: dict[int, tuple[End, Record]] = {}
        self._end_offsets: dict[int, dict[int, int]] = {}
        self._newest = [0] * partitions
        self._short: dict[int, int] = {}
        self.duplicates = 0
        self.zombies = 0
        self.pending_bytes = 0
        #: What is kept of partitions that are not awaited: the memory that it takes, about.
        self.memory_bytes = 0

    @property
    def waiting_for(self) -> tuple[int, str]:
        """A partition that keeps the stream waiting, and what must come from it, in words."""
        what = "the end" if self._all_records_came() else f"record {self._sequence}"
        return min(self._awaited()), f"{what} of pass {self._pass}"

    def others(self) -> frozenset[int]:
        """The partitions from which nothing has to come now: what must come next, a record or an end, lies in the rest."""
        return frozenset(range(self._partitions)) - self._awaited()

    def _awaited(self) -> frozenset[int]:
        """The partition of the next record; behind the last record, every partition whose end of the pass is missing."""
        if self._all_records_came():
            # Asked for by other threads too, between any two steps of this one.
            ended = self._end_offsets.get(self._pass, {})
            missing = frozenset(
                partition for partition in range(self._partitions) if partition not in ended
            )
            if missing:
                return missing
        return frozenset((partition_of(self._sequence, self._partitions),))

    def _all_records_came(self) -> bool:
        """Whether an end of the pass is known, and every record before it was given."""
        end, _ = self._ends.get(self._pass, (None, None))
        return end is not None and self._sequence >= end.records

    def expects(self, arrival: ConsumedRecord) -> bool:
        """Whether an arrival is by its head just the next record of its partition."""
        head = arrival.record.head
        return (
            head.end is None
            and head.run_id == self._stream.run_id
            and (head.pass_index, head.sequence) == self._expected[arrival.partition]
            and partition_of(head.sequence, self._partitions) == arrival.partition
        )

    def push(self, arrival: ConsumedRecord) -> None:
        """Take an arrival in."""
        head, partition = arrival.record.head, arrival.partition
        if head.run_id != self._stream.run_id:
            raise RunMismatch(
                f"{arrival.where}: a record of run {head.run_id}, although its place and headers are of {self._stream}"
            )
        key = (head.pass_index, head.sequence)
        expected = self._expected[partition]
        if key < self._start and not (head.end is not None and head.pass_index == self._start[0]):
            # From before the position: read again, not written again.
            return
        if head.pass_index < expected[0] or (
            head.pass_index == expected[0] and head.end is None and key < expected
        ):
            self.duplicates += 1
            return
        if head.pass_index > expected[0]:
            raise SequenceGap(
                f"{arrival.where}: {head} came, but the end of pass {expected[0]} is missing in this partition"
            )
        if head.generation < self._newest[partition]:
            self.zombies += 1
        self._newest[partition] = max(self._newest[partition], head.generation)
        if head.end is None:
            self._take(arrival, expected)
        else:
            self._take_end(arrival, head.end, expected)

    def _take(self, arrival: ConsumedRecord, expected: tuple[int, int]) -> None:
        head = arrival.record.head
        if head.sequence > expected[1]:
            raise SequenceGap(
                f"{arrival.where}: {head} came, but record {expected[1]} must be next in this partition; "
                f"{(head.sequence - expected[1] + self._partitions - 1) // self._partitions} records are missing"
            )
        if partition_of(head.sequence, self._partitions) != arrival.partition:
            raise RunMismatch(
                f"{arrival.where}: {head} does not belong in this partition of {self._partitions}"
            )
        size = self._stream.rows_per_record
        if head.rows > size:
            raise CorruptData(
                f"{arrival.where}: {head} has {head.rows} rows, the run has {size} a record"
            )
        if head.rows < size:
            # Only a pass's last record is shorter.
            before = self._short.setdefault(head.pass_index, head.sequence)
            if before != head.sequence:
                raise CorruptData(
                    f"{arrival.where}: {head} has {head.rows} rows of {size}, and so has record {before}: only the last may"
                )
        self._pending[arrival.partition].append(arrival)
        self.pending_bytes += arrival.record.nbytes
        self.memory_bytes += _memory_of(arrival.record)
        self._expected[arrival.partition] = (head.pass_index, head.sequence + self._partitions)

    def _take_end(self, arrival: ConsumedRecord, end: End, expected: tuple[int, int]) -> None:
        head, partition = arrival.record.head, arrival.partition
        known, _ = self._ends.setdefault(head.pass_index, (end, arrival.record.load()))
        if known != end or head.sequence != end.records:
            raise RunMismatch(
                f"{arrival.where}: {head} says {_said(end)}, another end of the pass {_said(known)}; the teacher's inputs changed"
            )
        if expected[1] < end.records:
            raise SequenceGap(
                f"{arrival.where}: pass {head.pass_index} ends with {_said(end)}, but record {expected[1]} is missing here"
            )
        if expected[1] != _first_in(partition, end.records, self._partitions):
            raise RunMismatch(
                f"{arrival.where}: pass {head.pass_index} ends with {_said(end)}, but this partition holds more"
            )
        self._end_offsets.setdefault(head.pass_index, {})[partition] = arrival.next_offset
        # A partition may hold the ends of any number of passes.
        self.memory_bytes += _OBJECT_BYTES
        self._expected[partition] = (head.pass_index + 1, partition)

    def pop(self) -> ConsumedRecord | PassEnd | None:
        """The next record in order, the end of the pass, or None until more arrives."""
        pending = self._pending[partition_of(self._sequence, self._partitions)]
        if pending and pending[0].record.head.pass_index == self._pass:
            arrival = pending.popleft()
            self.pending_bytes -= arrival.record.nbytes
            self.memory_bytes -= _memory_of(arrival.record)
            self._refuse_short(arrival.record.head, arrival.where)
            self._sequence += 1
            return arrival
        end, record = self._ends.get(self._pass, (None, None))
        if (
            end is None
            or record is None
            or self._sequence < end.records
            or len(self._end_offsets[self._pass]) < self._partitions
        ):
            return None
        return self._ended(end, record)

    def _refuse_short(self, head: RecordHead, where: str) -> None:
        short = self._short.get(head.pass_index)
        if short is not None and short < head.sequence:
            raise CorruptData(
                f"{where}: {head} comes behind record {short}, which is short: only a pass's last record may be"
            )

    def _ended(self, end: End, record: Record) -> PassEnd:
        del self._ends[self._pass]
        offsets = self._end_offsets.pop(self._pass)
        self.memory_bytes -= _OBJECT_BYTES * len(offsets)
        self._short.pop(self._pass, None)
        self._pass += 1
        self._sequence = 0
        position = Position(
            pass_index=self._pass,
            offsets=tuple(offsets[partition] for partition in range(self._partitions)),
        )
        return PassEnd(end=end, record=record, next_pass=position)


def _memory_of(record: Record | StoredRecord) -> int:
    """What an arrival takes in memory, about; of a record that is still in its file nearly nothing."""
    if isinstance(record, StoredRecord):
        return _OBJECT_BYTES
    return record.nbytes + _OBJECT_BYTES + _COLUMN_BYTES * len(record.columns)


def made_sure(order: Order, arrival: ConsumedRecord) -> ConsumedRecord:
    """An arrival that is by its head just what must come next, as it is; any other is read and checked before anything is concluded from it."""
    return arrival if order.expects(arrival) else replace(arrival, record=arrival.record.load())


def _first_in(partition: int, sequence: int, partitions: int) -> int:
    """The first sequence number from `sequence` on that lies in the partition."""
    return sequence + (partition - sequence) % partitions


def _said(end: End) -> str:
    return f"{end.records} records, {end.rows} rows"
