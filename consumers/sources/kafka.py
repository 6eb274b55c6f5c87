"""A Kafka topic -> records, partition by partition in offset order, never skipping what the broker no longer has."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Generator, Mapping, Sequence
from copy import copy
from typing import Any

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.consumers.sources.kafka_messages import RunMessages
from tutelage.schemas.arguments import text
from tutelage.schemas.errors import (
    ConfigurationError,
    DataError,
    TopicIdentityError,
    TransportError,
    TutelageError,
    WaitTimeout,
)
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits, checked_limits
from tutelage.schemas.topic import BEGINNING, checked_topic
from tutelage.transport.beginnings import Beginnings, where_to_begin
from tutelage.transport.connection import (
    BROKER_TIMEOUT_S,
    KafkaConnection,
)
from tutelage.transport.control_topics import KafkaControl, student_control
from tutelage.transport.offset_commits import OffsetCommits
from tutelage.transport.partition_reader import Message, PartitionReader
from tutelage.transport.registry import Registry
from tutelage.transport.run_choice import RunChoice
from tutelage.transport.runs import FoundRun, unlike
from tutelage.transport.topic_admin import KafkaTopic, is_outage, once_known, through_outages
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.waiting import RateLimit, Wait
from tutelage.transport.watermarks import Watermarks

log = logging.getLogger(__name__)

# Copies of messages are made under the interpreter's lock, and are memory: so many bytes at once, but not more messages than this.
_BYTES_AT_ONCE = 4 << 20
_MESSAGES_AT_ONCE = 64
# Looked at while nothing comes: compaction removes records, and refuses ours.
_SETTINGS_EVERY_S = 10.0
# Clients a forked child inherited: they belong to the parent, and even freeing them could hang.
_INHERITED: list[Any] = []


class KafkaSource(Source):
    """Reads a run from a Kafka topic that a `KafkaSink` writes, and waits for topic and records.

    Records of other runs are passed over. Where reading goes on never depends on a consumer group.

    Guarantee: records that are gone (retention, a recreated topic) raise RetentionLoss or
    TopicIdentityError; none is skipped.

    Args:
        topic: The topic's name.
        bootstrap_servers: `HOST:PORT`, several of them with commas between, or a list. If not
            given, `TUTELAGE_BOOTSTRAP_SERVER` of the environment, else `localhost:9092`.
        registry: The schema registry's URL, or a registry object. If not given, `TUTELAGE_REGISTRY`
            of the environment, else `http://localhost:8081/apis/ccompat/v7`.
        options: Options of the Kafka client (librdkafka's names), passed on as they are.
        group: A consumer group to commit progress to, for lag tools and for a teacher's
            `max_ahead`.
        run: The run's name. If not given, the newest run that the topic holds when it is opened.
        limits: How large records, schemas and shapes may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    # The client keeps as much again in its own queue.
    ahead_bytes = 32 << 20

    def __init__(
        self,
        topic: str,
        *,
        bootstrap_servers: str | Sequence[str] | None = None,
        registry: Registry | str | None = None,
        options: Mapping[str, object] | None = None,
        group: str | None = None,
        run: str | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._topic = checked_topic(topic)
        client_id = f"tutelage-student-{topic}"
        self._connection = KafkaConnection(
            bootstrap_servers, registry=registry, options=options, client_id=client_id
        )
        self._limits = checked_limits(limits)
        self._choice = RunChoice(
            self._connection, topic, None if run is None else text("run", run), self._limits
        )
        self._group = (
            OffsetCommits(self._connection, text("group", group), topic)
            if group is not None
            else None
        )
        self._reader = PartitionReader(self._connection, topic)
        self._asked = KafkaTopic(self._connection, self._topic)
        self._opened: StreamInfo | None = None
        self._first: Message | None = None
        self._lows: list[int] = []
        self._begins: list[int] = []
        self._messages: RunMessages | None = None
        self._identity: dict[str, str] = {}
        self._identity_check: IdentityCheck | None = None
        self._control: KafkaControl | None = None
        self._ends: Watermarks | None = None
        self._settings_due = RateLimit(_SETTINGS_EVERY_S)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        run = self._choice.named
        return f"KafkaSource({self._topic!r}, {self._connection.bootstrap_servers!r}{'' if run is None else f', run={run!r}'})"

    def __getstate__(self) -> dict[str, object]:
        fresh: dict[str, object] = {
            "_reader": PartitionReader(self._connection, self._topic),
            "_asked": KafkaTopic(self._connection, self._topic),
            "_control": None,
            "_ends": None,
            "_opened": None,
            "_first": None,
            "_identity_check": None,
            "_messages": None,
        }
        return {**self.__dict__, **fresh}

    @property
    def name(self) -> str:
        return f"topic {self._topic}"

    @property
    def connection(self) -> KafkaConnection:
        """How the source reaches Kafka."""
        return self._connection

    @property
    def online(self) -> bool:
        return True

    def identity(self) -> Mapping[str, str]:
        return dict(self._identity)

    def ends(self) -> Sequence[tuple[int, int]]:
        ends = self._ends
        return ends.latest() if ends is not None else ()

    def connect(self) -> None:
        self._connection.registry.connect()

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        self._choice.resume(run_id, identity)

    def open(self, timeout_s: float) -> StreamInfo:
        self._leave_inherited()
        if self._opened is not None:
            return self._opened
        wait = Wait(
            f"topic {self._topic} at {self._connection.where}",
            timeout_s=timeout_s,
            log=log,
            hint="is its teacher running, and is this the name it writes to?",
        )
        while not (partitions := through_outages(self._asked.partitions, wait)):
            # Not there, or not to be seen: then waiting would be in vain.
            through_outages(self._asked.refuse_hidden, wait)
            wait.tick()
            time.sleep(0.2)
        self._identity = once_known(self._asked.identity, wait)
        self._begin_checking()
        found = self._chosen(partitions, timeout_s - wait.waited_s)
        stream = found.stream
        if stream.partitions > partitions:
            raise TopicIdentityError(unlike(self._topic, partitions, stream))
        self._messages = run = RunMessages(self._connection, self._topic, found, self._limits)
        self._ends = Watermarks(self._connection, self._topic, stream.partitions)
        if self._control is not None:
            self._control.conversation.run_id = stream.run_id
        self._opened = StreamInfo(
            stream=stream,
            description=run.description,
            schema=run.schema,
            partitions=stream.partitions,
        )
        return self._opened

    def _chosen(self, partitions: int, timeout_s: float) -> FoundRun:
        """The run to read, waited for, and where it begins."""
        wait = Wait(
            self._choice.awaited, timeout_s=timeout_s, log=log, hint="is its teacher running?"
        )
        self._lows = through_outages(lambda: self._asked.first_offsets(partitions), wait)
        ends = through_outages(lambda: self._asked.end_offsets(partitions), wait)
        self._reader.begin(self._asked, self._lows)
        self._first = first = self._reader.first(wait)
        found = self._choice.find(
            first, alone=ends == self._lows, identity=self._identity, wait=wait
        )
        if found.message is not first or found.stream.partitions < partitions:
            # Reading begins elsewhere: where another run begins, or without partitions that were added to the topic later.
            self._first = None
        self._begins = (
            self._lows if found.message is first else self._choice.begins(found, partitions, wait)
        )
        return found

    def _begin_checking(self) -> None:
        self._identity_check = IdentityCheck(
            self._asked, self._topic, self._identity.get("topic_id", ""), doing="it was read",
            advice="What was not read of it is lost; let the teacher write it again, and begin without a checkpoint",
        )  # fmt: skip

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        self._leave_inherited()
        opened = self.open(BROKER_TIMEOUT_S) if self._opened is None else self._opened
        first, self._first = self._first, None
        messages: list[Message] = []
        if first is not None and all(offset == BEGINNING for offset in position.offsets):
            # Reading goes on behind the message that `open` looked at; nothing has to be asked for or fetched again.
            beginnings = Beginnings(self._lows, self._begins)
            messages = [first]
        else:
            while (begun := self._assigned(opened, position)) is None:
                # Its brokers are away, and whoever reads decides how long that may be.
                yield None
            beginnings = begun
        reader, run = self._reader, self._messages
        assert run is not None, "open makes it"
        size = _BYTES_AT_ONCE
        while True:
            came = given = False
            rewound: set[int] = set()
            for message in messages:
                if message.error() is not None:
                    reader.check_reported(message)
                    continue
                came = True
                partition = message.partition() or 0
                if partition in rewound:
                    continue
                if (older := run.is_of_older_run(message)) is not None:
                    # Before the run's first record such a message is where it belongs.
                    self.stale_records += older and not beginnings.awaits(partition)
                    continue
                arrival = run.arrival(message)
                size = arrival.record.nbytes
                if beginnings.awaits(partition):
                    earlier = beginnings.found(partition, arrival.record.head, arrival.where)
                    if earlier is not None:
                        reader.seek(partition, earlier)
                        rewound.add(partition)
                        continue
                given = True
                yield arrival
            if self._identity_check is not None:
                self._identity_check.look()
            if not came and self._settings_due.due():
                self._asked.check_not_compacted()
            if not given:
                # Also where only records of other runs came: whoever reads must be able to give up.
                yield None
            # What was yielded is the caller's alone now: a list that is kept while waiting keeps its messages in memory.
            messages = []
            messages = reader.take(max(1, min(_MESSAGES_AT_ONCE, _BYTES_AT_ONCE // max(1, size))))

    def _assigned(self, opened: StreamInfo, position: Position) -> Beginnings | None:
        """Begin at a position, with a new consumer; None where no broker answers just now."""
        try:
            lows = self._asked.first_offsets(opened.partitions)
            highs = self._asked.end_offsets(opened.partitions)
        except TransportError as error:
            if is_outage(error):
                return None
            raise
        wanted = position.offsets or (BEGINNING,) * opened.partitions
        offsets, guesses = where_to_begin(
            self._topic, wanted, lows=lows, highs=highs, begins=self._begins
        )
        self._reader.begin(self._asked, offsets)
        return Beginnings(lows, guesses)

    def hold(self, partitions: frozenset[int]) -> None:
        self._reader.hold(partitions)

    def reached(self) -> Sequence[tuple[int, int]]:
        return self._reader.reached(self._opened.partitions) if self._opened is not None else ()

    def explain(self, error: TutelageError) -> TutelageError:
        if not isinstance(error, (DataError, WaitTimeout)) or isinstance(error, TopicIdentityError):
            return error
        try:
            if self._identity_check is not None:
                self._identity_check.check()
            self._asked.check_not_compacted()
        except (TopicIdentityError, ConfigurationError) as cause:
            cause.__cause__ = error
            return cause
        except TransportError as unknown:
            log.debug("the identity of topic %s could not be checked: %s", self._topic, unknown)
        return error

    @property
    def commits(self) -> bool:
        return self._group is not None

    def commit(self, position: Position) -> None:
        if self._group is not None and self._opened is not None:
            # Nothing of the run follows its last record, unless another run does.
            followed = self._messages is not None and self._messages.followed
            at_end = position.pass_index >= self._opened.stream.passes and not followed
            self._group.commit(
                self._asked,
                position.offsets or (BEGINNING,) * self._opened.partitions,
                at_end=at_end,
            )

    def send(self, value: Any) -> None:
        self._controls().send(value)

    def recv(self, timeout_s: float) -> Any:
        return self._controls().recv(timeout_s=timeout_s, frm=f"the teacher of {self._topic}")

    def ask(self, value: Any, timeout_s: float) -> Any:
        return self._controls().ask(value, timeout_s=timeout_s, frm=f"the teacher of {self._topic}")

    def _controls(self) -> KafkaControl:
        if self._control is None:
            self._control = student_control(self._connection, self._topic)
            if self._opened is not None:
                self._control.conversation.run_id = self._opened.stream.run_id
        return self._control

    def _leave_inherited(self) -> None:
        """In a forked child, leave the parent's clients alone and begin anew."""
        if self._pid != os.getpid():
            _INHERITED.extend((self._reader, self._asked, self._control, self._ends, self._group))
            if self._group is not None:
                self._group = copy(self._group)
            self._forget_clients()
            self._pid = os.getpid()

    def _forget_clients(self) -> None:
        self._control = self._ends = self._opened = self._first = self._identity_check = (
            self._messages
        ) = None
        self._reader = PartitionReader(self._connection, self._topic)
        self._asked = KafkaTopic(self._connection, self._topic)

    def close(self) -> None:
        self._leave_inherited()
        if self._group is not None:
            self._group.close()
        self._reader.close()
        if self._control is not None:
            self._control.close()
        self._forget_clients()
        self._connection.registry.close()
