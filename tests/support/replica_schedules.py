"""Replicas of a teacher over logs in memory, at the mercy of a schedule: who owns what, who stalls, who dies.

The code under test is the real one: the order of queries, where a partition's answers end, and the
student's order of records. The loop of a replica is that of `Replica`, without clocks and clients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.schemas.record import End, Record, RecordHead, Stream
from tutelage.schemas.tail import next_record
from tutelage.schemas.topic import BEGINNING, partition_for

#: How many of a partition's last records a replica looks at.
WINDOW = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A schedule.

    Args:
        partitions: Of queries and answers.
        records: Query records of the pass.
        replicas: How many replicas there are.
        repeats: Before which records the writer of queries was restarted, and how many it wrote again.
        acts: What happens: a replica, and what it does: a number from 0, see `Replicas.act`.
    """

    partitions: int
    records: int
    replicas: int
    repeats: Sequence[tuple[int, int]]
    acts: Sequence[tuple[int, int, int]]


@dataclass(kw_only=True, slots=True)
class Replica:
    """What a replica knows: per partition its order and the next offset, and what it computes."""

    orders: dict[int, PartitionOrder] = field(default_factory=dict)
    offsets: dict[int, int] = field(default_factory=dict)
    computing: deque[Query] = field(default_factory=deque)
    computed: int = 0


class Replicas:
    """Replicas of one teacher. A partition may have several owners, some of whom are not the group's."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.queries = _log(program)
        self.answers: list[list[RecordHead]] = [[] for _ in range(program.partitions)]
        self._committed = [0] * program.partitions
        self._replicas = [Replica() for _ in range(program.replicas)]

    def act(self, number: int, act: int, partition: int) -> None:
        """One step of one replica."""
        replica = self._replicas[number % len(self._replicas)]
        partition %= self._program.partitions
        if act == 0:
            self.assign(replica, partition)
        elif act == 1:
            self.revoke(replica, partition)
        elif act == 2:
            # It dies with what it computes, and a new one takes its place.
            self._replicas[self._replicas.index(replica)] = Replica()
        elif act in (3, 4, 5):
            self.read(replica, partition)
        else:
            self.write(replica)

    def assign(self, replica: Replica, partition: int) -> None:
        """The group gives a partition. Whoever had it may not know yet."""
        missing = self.missing(partition)
        order = PartitionOrder(partition, self._program.partitions, missing, 1)
        replica.orders[partition] = order
        replica.offsets[partition] = self.begin(partition, order)

    def missing(self, partition: int) -> tuple[int, int]:
        """The first answer that a partition lacks, by its last records."""
        return next_record(self.answers[partition][-WINDOW:], partition, self._program.partitions)

    def begin(self, partition: int, order: PartitionOrder) -> int:
        """The offset at which reading begins."""
        return min(order.passed, len(self.queries[partition]))

    def revoke(self, replica: Replica, partition: int) -> None:
        """A replica learns that a partition is not its own any more."""
        replica.orders.pop(partition, None)

    def read(self, replica: Replica, partition: int) -> None:
        """A replica reads a query of a partition that it believes its own."""
        order = replica.orders.get(partition)
        if order is None or replica.offsets[partition] >= len(self.queries[partition]):
            return
        offset = replica.offsets[partition]
        head = self.queries[partition][offset]
        replica.offsets[partition] = offset + 1
        if order.is_too_late(head):
            replica.offsets[partition] = 0
        elif order.accept(head, f"partition {partition}"):
            replica.computing.append(
                Query(
                    partition=partition, offset=offset, head=head, columns={}, nbytes=0, order=order
                )
            )
            self._committed[partition] = offset + 1

    def write(self, replica: Replica) -> None:
        """A replica writes the oldest answer that it computed, unless the partition is gone."""
        if replica.computing:
            query = replica.computing.popleft()
            if replica.orders.get(query.partition) is query.order:
                self.answers[query.partition].append(self.answer(replica, query))
                replica.computed += 1

    def answer(self, replica: Replica, query: Query) -> RecordHead:
        """The head of an answer."""
        return replace(query.head, generation=0)

    def finish(self) -> None:
        """The last replica gets all partitions, and nothing disturbs it."""
        last = Replica()
        for partition in range(self._program.partitions):
            self.assign(last, partition)
        for partition in range(self._program.partitions):
            for _ in range(2 * len(self.queries[partition]) + 1):
                self.read(last, partition)
                self.write(last)


def check_replicas(program: Program, kind: type[Replicas] = Replicas) -> None:
    """Run a schedule, and check that a student reads every answer once and in order."""
    replicas = kind(program)
    for act in program.acts:
        replicas.act(*act)
        for partition, answers in enumerate(replicas.answers):
            _check_is_beginning(answers, partition, program)
    replicas.finish()
    assert _read_in_order(replicas.answers, program) == list(range(program.records))


def _check_is_beginning(answers: list[RecordHead], partition: int, program: Program) -> None:
    """Check that a partition holds the first answers of the run, whatever was written twice."""
    _, missing = next_record([], partition, program.partitions)
    for head in answers:
        if head.end is None:
            assert partition_for(head.sequence, program.partitions) == partition
            assert head.sequence <= missing, f"answer {missing} of partition {partition} is missing"
            missing = max(missing, head.sequence + program.partitions)
        else:
            assert missing >= head.end.records, f"answer {missing} is missing before the end"


def _read_in_order(answers: list[list[RecordHead]], program: Program) -> list[int]:
    """The sequences that a student reads of these partitions."""
    order = Order(
        _stream(program), program.partitions, Position(offsets=(BEGINNING,) * program.partitions)
    )
    found: list[int] = []
    for partition, heads in enumerate(answers):
        for offset, head in enumerate(heads):
            record = Record(
                head=head,
                columns={"x": np.zeros(head.rows)} if head.rows else {},
                raw=memoryview(b""),
            )
            order.push(
                ConsumedRecord(
                    partition=partition,
                    offset=offset,
                    next_offset=offset + 1,
                    record=record,
                    where=f"partition {partition}, offset {offset}",
                )
            )
    while (item := order.pop()) is not None:
        if isinstance(item, PassEnd):
            return found
        found.append(item.record.head.sequence)
    raise AssertionError(f"reading waits behind {found}")


def _stream(program: Program) -> Stream:
    return Stream(
        run_id="r",
        teacher="t",
        revision="",
        inputs_fingerprint="",
        passes=1,
        partitions=program.partitions,
        rows_per_record=1,
        created=0.0,
        version="",
    )


def _log(program: Program) -> list[list[RecordHead]]:
    """The queries of each partition. A restarted writer writes some of the last again."""
    found: list[list[RecordHead]] = [[] for _ in range(program.partitions)]

    def put(sequence: int) -> None:
        found[partition_for(sequence, program.partitions)].append(
            RecordHead(run_id="r", pass_index=0, sequence=sequence, rows=1, generation=0)
        )

    for sequence in range(program.records):
        for before, again in program.repeats:
            if before == sequence:
                for earlier in range(max(0, sequence - again), sequence):
                    put(earlier)
        put(sequence)
    end = RecordHead(
        run_id="r", pass_index=0, sequence=program.records, rows=0, generation=0,
        end=End(records=program.records, rows=program.records),
    )  # fmt: skip
    for each in found:
        each.append(end)
    return found
