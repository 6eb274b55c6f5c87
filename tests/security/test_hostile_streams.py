"""Streams whose writer wants their reader to wait, to keep everything, or to believe any number: without a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from support.streams import NUMBERS, arrivals_of, partitioned, records_of, stream_of

from tutelage import MemorySource, MemoryTopic
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.consumers.stages.order import Order
from tutelage.schemas.control import encode_control
from tutelage.schemas.conversation import Conversation
from tutelage.schemas.errors import WaitTimeout
from tutelage.schemas.framing import frame
from tutelage.schemas.headers import stream_headers
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.tools.in_order import in_order
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.control_topics import KafkaControl
from tutelage.transport.memory_topic import StoredRecord

pytestmark = pytest.mark.timeout(120)


class Listed(Source):
    """Gives arrivals one by one, round and round the partitions, and keeps count; honours what is held."""

    def __init__(self, arrivals: list[list[ConsumedRecord]]) -> None:
        self.given = [0] * len(arrivals)
        self._arrivals = arrivals
        self._held: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        return "a list"

    def open(self, timeout_s: float) -> StreamInfo:
        stream = stream_of(partitions=len(self._arrivals), rows_per_record=1)
        return StreamInfo(
            stream=stream,
            description=NUMBERS,
            schema=schema_from_description(NUMBERS),
            partitions=stream.partitions,
        )

    def hold(self, partitions: frozenset[int]) -> None:
        self._held = partitions

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        while True:
            came = False
            for partition, arrivals in enumerate(self._arrivals):
                if partition not in self._held and self.given[partition] < len(arrivals):
                    came = True
                    self.given[partition] += 1
                    yield arrivals[self.given[partition] - 1]
            if not came:
                yield None

    def close(self) -> None:
        return


def sized(arrivals: list[ConsumedRecord], nbytes: int) -> list[ConsumedRecord]:
    """The arrivals, each as if it had so many bytes."""
    raw = memoryview(bytes(nbytes))
    records = [arrival.record.load() for arrival in arrivals]
    return [
        replace(arrival, record=replace(record, raw=raw))
        for arrival, record in zip(arrivals, records, strict=True)
    ]


def logs_without_the_first(partitions: int, rows: int) -> list[list[ConsumedRecord]]:
    """Records of one row in so many partitions, of which the first holds nothing."""
    stream = stream_of(partitions=partitions, rows_per_record=1)
    arrivals = arrivals_of(partitioned(stream, records_of(stream, rows)))
    arrivals[0] = []
    return arrivals


def test_a_missing_record_keeps_a_budget_of_the_others_and_ends_in_a_timeout() -> None:
    """What `verify`, `record`, `replay` and `inspect` read with."""
    first, *others = logs_without_the_first(3, 600)
    source = Listed([first, *(sized(each, 1 << 20) for each in others)])
    with pytest.raises(WaitTimeout, match="partition 0, record 0 of pass 0"):
        list(in_order(source, source.open(0), timeout_s=1.5))
    # 64 MiB, in records of one.
    assert 60 <= sum(source.given) <= 66


class Late(Listed):
    """Gives a partition's arrivals only while all others are held, or have nothing."""

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        while True:
            free = [
                at
                for at in range(len(self.given))
                if at not in self._held and self.given[at] < len(self._arrivals[at])
            ]
            if not free:
                yield None
                continue
            partition = free[-1]
            self.given[partition] += 1
            yield self._arrivals[partition][self.given[partition] - 1]


@pytest.mark.parametrize("size", [1 << 10, 1 << 20, 40 << 20, 200 << 20])
def test_partitions_that_come_in_the_worst_order_are_read_to_their_end_whatever_their_records_have(
    size: int,
) -> None:
    stream = stream_of(partitions=3, rows_per_record=1)
    logs = arrivals_of(partitioned(stream, records_of(stream, 400)))
    source = Late([[*sized(log[:-1], size), log[-1]] for log in logs])
    records = list(in_order(source, source.open(0), timeout_s=5.0))
    assert [record.head.sequence for record in records] == list(range(401))


def test_tiny_records_and_ends_of_passes_count_with_what_is_around_them() -> None:
    source = Listed(logs_without_the_first(2, 200_000))
    with pytest.raises(WaitTimeout):
        list(in_order(source, source.open(0), timeout_s=1.0))
    assert source.given[1] < 60_000
    stream = stream_of(partitions=2, passes=1000)
    order = Order(stream, 2, Position())
    (end,) = records_of(stream, 0)
    for pass_index in range(1000):
        head = replace(end[0], pass_index=pass_index)
        record = replace(arrivals_of([[end[1]]])[0][0].record.load(), head=head)
        order.push(
            ConsumedRecord(partition=1, offset=0, next_offset=1, record=record, where="here")
        )
    assert order.memory_bytes >= 1000 * 1024


@pytest.fixture
def over() -> Iterator[threading.Event]:
    """Set when a flood ends, after a while: what lasts as long as the flood then ends too, and is seen to have done so."""
    event = threading.Event()
    timer = threading.Timer(20, event.set)
    timer.start()
    yield event
    timer.cancel()


class Endless(list[StoredRecord]):
    """A partition whose records are followed by endless duplicates of one of them."""

    def __init__(self, own: list[StoredRecord], again: StoredRecord, over: threading.Event) -> None:
        super().__init__(own)
        self._again = again
        self._over = over

    def __len__(self) -> int:
        return super().__len__() if self._over.is_set() else 2**31

    def __getitem__(self, at: Any) -> Any:
        return super().__getitem__(at) if at < super().__len__() else self._again


def memory_topic(stream_partitions: int, rows: int, *, run_id: str = "run") -> MemoryTopic:
    """A topic that holds the records of a pass in its first partitions."""
    topic = MemoryTopic(name="t", partitions=stream_partitions)
    stream = stream_of(partitions=stream_partitions, rows_per_record=1, run_id=run_id)
    for partition, bodies in enumerate(partitioned(stream, records_of(stream, rows))):
        for body in bodies:
            record = StoredRecord(
                headers=stream_headers(stream, NUMBERS),
                schema=schema_from_description(NUMBERS),
                body=body,
            )
            topic.logs[partition].append(record)
    return topic


class Repeating(Listed):
    """Gives its last arrival for as long as the flood lasts."""

    def __init__(self, arrivals: list[ConsumedRecord], over: threading.Event) -> None:
        super().__init__([arrivals])
        self._over = over

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        for arrival in self._arrivals[0]:
            yield arrival
        while not self._over.is_set():
            yield arrival
        while True:
            yield None


def test_duplicates_that_never_end_do_not_prolong_a_wait(over: threading.Event) -> None:
    stream = stream_of(rows_per_record=1)
    (arrivals,) = arrivals_of(partitioned(stream, records_of(stream, 3)))
    source = Repeating(arrivals[:2], over)
    with pytest.raises(WaitTimeout, match="record 2 of pass 0"):
        list(in_order(source, source.open(1), timeout_s=1.5))
    assert not over.is_set(), "the wait lasted as long as duplicates came"


def test_records_of_another_run_that_never_end_let_whoever_reads_give_up(
    over: threading.Event,
) -> None:
    topic, other = memory_topic(1, 3), memory_topic(1, 1, run_id="other").logs[0][0]
    source = MemorySource(topic, run="run")
    source.open(1)
    topic.logs[0] = Endless(topic.logs[0][:2], other, over)
    arrivals = source.read(Position())
    assert [next(arrivals) is not None for _ in range(2)] == [True, True]
    assert next(arrivals) is None
    assert not over.is_set(), "nothing was heard of the source for as long as they came"
    arrivals.close()


class Slow(Listed):
    """Gives an arrival every so many ticks of a clock that it moves itself, and knows where it is."""

    def __init__(
        self, arrivals: list[list[ConsumedRecord]], clock: Callable[[float], None]
    ) -> None:
        super().__init__(arrivals)
        self._clock = clock

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        for arrival in super().read(position):
            self._clock(0.5)
            yield arrival

    def reached(self) -> Sequence[tuple[int, int]]:
        return [(at, len(log)) for at, log in zip(self.given, self._arrivals, strict=True)]


@pytest.mark.parametrize("what", ["duplicates", "another partition"])
def test_what_lay_there_when_the_wait_began_is_read_to_its_end_however_long_that_takes(
    monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    now = [0.0]
    for module in ("tutelage.consumers.stages.record_wait.time", "tutelage.transport.waiting.time"):
        monkeypatch.setattr(f"{module}.monotonic", lambda: now[0])

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    stream = stream_of(partitions=2, rows_per_record=1)
    logs = arrivals_of(partitioned(stream, records_of(stream, 40)))
    if what == "duplicates":
        logs[0][1:1] = logs[0][:1] * 100
    else:
        # All of the other partition comes first.
        logs = [logs[0], logs[1]]
    source = Slow(logs, pass_by)
    records = list(in_order(source, source.open(0), timeout_s=2.0))
    assert sum(record.head.rows for record in records) == 40
    assert now[0] > 20


def test_control_messages_for_others_that_never_end_do_not_prolong_a_wait() -> None:
    control = KafkaControl(
        KafkaConnection("127.0.0.1:1"), outbox="o", inbox="i", sender="me", is_teacher=False
    )
    question = Conversation(answers_all=False).compose("mine", asks=True)
    noise = frame(1) + encode_control(replace(question, reply_to="of another"), "them")

    came = SimpleNamespace(error=lambda: None, value=lambda: noise, timestamp=lambda: (1, 0))

    class Flood:
        offset = -1

        def poll(self, timeout: float) -> Any:
            self.offset += 1
            if self.offset > 2000:
                return None
            threading.Event().wait(0.002)
            came.offset = lambda: self.offset
            return came

        def get_watermark_offsets(self, part: Any, cached: bool) -> tuple[int, int]:
            return 0, self.offset + 5

    control._consumer = flood = Flood()  # type: ignore[assignment]
    with pytest.raises(WaitTimeout, match="a control message from them"):
        control.recv(timeout_s=0.2, frm="them")
    assert 5 <= flood.offset < 2000, (
        "what is there is read, however short the wait, and what comes later is not waited for"
    )
