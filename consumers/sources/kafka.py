"""A Kafka topic -> the records of one run, partition by partition in offset order.

A record that the broker no longer has is an error, never skipped. `kafka_run.py` decides which run
is read and where it begins; `transport/run_messages.py` decodes messages.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Mapping, Sequence
from copy import copy
from typing import Any

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.consumers.sources.kafka_run import OpenRun, RunFinder, wait_for_partitions
from tutelage.schemas.arguments import check_text
from tutelage.schemas.errors import (
    ConfigurationError,
    DataError,
    TopicIdentityError,
    TransportError,
    TutelageError,
    WaitTimeout,
)
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits, check_limits
from tutelage.schemas.topic import BEGINNING, check_topic
from tutelage.transport.beginnings import Beginnings
from tutelage.transport.connection import BROKER_TIMEOUT_S, KafkaConnection
from tutelage.transport.control_topics import KafkaControl, student_control
from tutelage.transport.offset_commits import OffsetCommits
from tutelage.transport.outages import once_known
from tutelage.transport.partition_reader import Message, PartitionReader
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.registry import Registry
from tutelage.transport.run_choice import RunChoice
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.waiting import Wait
from tutelage.transport.watermarks import Watermarks

log = logging.getLogger(__name__)

# How many bytes and messages to take from the client at once. Messages are copied under the
# interpreter's lock, and the copies take memory.
_BYTES_AT_ONCE = 4 << 20
_MESSAGES_AT_ONCE = 64
# How often to check, while nothing comes, that the topic is not compacted: compaction removes
# records, and refuses ours.
_SETTINGS_EVERY_S = 10.0
# Clients that a forked child inherited. They belong to the parent, and even freeing them could
# hang, so they are kept here.
_INHERITED: list[Any] = []


class KafkaSource(Source):
    """Reads a run from a Kafka topic that a `KafkaSink` writes.

    It waits for the topic and its records. Records of other runs are skipped. Where reading
    continues never depends on a consumer group.

    Guarantee: records that are gone (retention, a recreated topic) raise RetentionLoss or
    TopicIdentityError; none is skipped.

    Args:
        topic: The topic's name.
        bootstrap_servers: `HOST:PORT`, several of them separated by commas, or a list. If not
            given, `TUTELAGE_BOOTSTRAP_SERVER` from the environment, else `localhost:9092`.
        registry: The schema registry's URL, or a registry object. If not given, `TUTELAGE_REGISTRY`
            from the environment, else `http://localhost:8081/apis/ccompat/v7`.
        options: Options of the Kafka client (librdkafka's names), passed on unchanged.
        group: A consumer group to commit progress to, for lag tools and for a teacher's
            `max_ahead`.
        run: The run's name. If not given, the newest run in the topic when it is opened.
        limits: How large records, schemas and shapes may be.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    # The client keeps as many bytes again in its own queue.
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
        self._topic = check_topic(topic)
        client_id = f"tutelage-student-{topic}"
        self._connection = KafkaConnection(
            bootstrap_servers, registry=registry, options=options, client_id=client_id
        )
        self._choice = RunChoice(
            self._connection,
            topic,
            None if run is None else check_text("run", run),
            check_limits(limits),
        )
        self._group = (
            OffsetCommits(self._connection, check_text("group", group), topic)
            if group is not None
            else None
        )
        self._reader = PartitionReader(self._connection, topic)
        self._admin = KafkaTopic(self._connection, self._topic)
        self._run: OpenRun | None = None
        self._needed: frozenset[int] | None = None
        self._identity: dict[str, str] = {}
        self._identity_check: IdentityCheck | None = None
        self._control: KafkaControl | None = None
        self._watermarks: Watermarks | None = None
        self._settings_due = RateLimit(_SETTINGS_EVERY_S)
        self._pid = os.getpid()

    def __repr__(self) -> str:
        name = self._choice.named
        run = "" if name is None else f", run={name!r}"
        return f"KafkaSource({self._topic!r}, {self._connection.bootstrap_servers!r}{run})"

    def __getstate__(self) -> dict[str, object]:
        fresh: dict[str, object] = {
            "_reader": PartitionReader(self._connection, self._topic),
            "_admin": KafkaTopic(self._connection, self._topic),
            "_run": None,
            "_identity_check": None,
            "_control": None,
            "_watermarks": None,
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
        watermarks = self._watermarks
        return watermarks.latest() if watermarks is not None else ()

    def connect(self) -> None:
        self._connection.registry.connect()

    def read_run(self, run_id: str) -> None:
        self._choice.name(run_id, self._run.info.stream if self._run is not None else None)

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        self._choice.resume(run_id, identity)

    def open(self, timeout_s: float) -> StreamInfo:
        self._leave_inherited()
        if self._run is not None:
            return self._run.info
        wait = Wait(
            f"topic {self._topic} at {self._connection.where}",
            timeout_s=timeout_s,
            log=log,
            hint="is its teacher running, and is this the name it writes to?",
        )
        partitions = wait_for_partitions(self._admin, wait)
        self._identity = once_known(self._admin.identity, wait)
        self._identity_check = IdentityCheck(
            self._admin,
            self._topic,
            self._identity.get("topic_id", ""),
            doing="it was read",
            advice="What was not read of it is lost; let the teacher write it again, and begin "
            "without a checkpoint",
        )
        run = self._finder().find(
            self._choice, self._identity, partitions=partitions, sparing=self.is_shared,
            timeout_s=timeout_s - wait.waited_s,
        )  # fmt: skip
        self._watermarks = Watermarks(self._connection, self._topic, run.info.partitions)
        if self._control is not None:
            self._control.conversation.run_id = run.info.stream.run_id
        self._run = run
        return run.info

    def _finder(self) -> RunFinder:
        return RunFinder(
            self._connection, self._topic, self._admin, self._reader, self._choice.limits
        )

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        self._leave_inherited()
        if self._run is None:
            self.open(BROKER_TIMEOUT_S)
        run = self._run
        assert run is not None, "open sets it"
        first = run.take_first()
        messages: list[Message] = []
        if (
            first is not None
            and self._needed is None
            and position == Position(offsets=(BEGINNING,) * len(position.offsets))
        ):
            # The reader is at the message after `first`, so nothing is requested or fetched again.
            beginnings = Beginnings(run.lows, run.lows)
            messages = [first]
        else:
            while (assigned := self._finder().assign(run, position, self._needed)) is None:
                # The brokers are away. The caller decides how long to wait for them.
                yield None
            beginnings = assigned
        reader, decoder = self._reader, run.messages
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
                if (older := decoder.is_of_older_run(message)) is not None:
                    # Before the run's first record, messages of older runs are expected.
                    self.stale_records += older and not beginnings.awaits(partition)
                    continue
                consumed = run.decode(message)
                size = consumed.record.nbytes
                if beginnings.awaits(partition):
                    earlier = beginnings.found(partition, consumed.record.head, consumed.where)
                    if earlier is not None:
                        reader.seek(partition, earlier)
                        rewound.add(partition)
                        continue
                given = True
                yield consumed
            self._check_topic(idle=not came)
            if not given:
                # Also if only records of other runs came: the caller must be able to give up.
                yield None
            # Kept while waiting for the next messages, the list would keep their memory.
            messages = []
            messages = reader.take(max(1, min(_MESSAGES_AT_ONCE, _BYTES_AT_ONCE // max(1, size))))

    def _check_topic(self, *, idle: bool) -> None:
        """Check now and then that the topic is still the same, and while idle not compacted."""
        if self._identity_check is not None:
            self._identity_check.look()
        if idle and self._settings_due.due():
            self._admin.check_not_compacted()

    def pass_rows(self) -> Mapping[int, int]:
        return self._finder().pass_rows(self._run) if self._run is not None else {}

    def only(self, partitions: frozenset[int] | None) -> None:
        self._needed = partitions

    def hold(self, partitions: frozenset[int]) -> None:
        self._reader.hold(partitions)

    def reached(self) -> Sequence[tuple[int, int]]:
        return self._reader.reached(self._run.info.partitions) if self._run is not None else ()

    def explain(self, error: TutelageError) -> TutelageError:
        if not isinstance(error, (DataError, WaitTimeout)) or isinstance(error, TopicIdentityError):
            return error
        try:
            if self._identity_check is not None:
                self._identity_check.check()
            self._admin.check_not_compacted()
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
        run = self._run
        if self._group is not None and run is not None:
            # Behind the run's last record the end of the topic is committed, unless another run
            # follows.
            passes = run.info.stream.passes
            at_end = position.pass_index >= passes and not run.messages.followed
            self._group.commit(self._admin, run.offsets_of(position), at_end=at_end)

    def send(self, value: Any) -> None:
        self._control_channel().send(value)

    def recv(self, timeout_s: float) -> Any:
        return self._control_channel().recv(
            timeout_s=timeout_s, frm=f"the teacher of {self._topic}"
        )

    def ask(self, value: Any, timeout_s: float) -> Any:
        return self._control_channel().ask(
            value, timeout_s=timeout_s, frm=f"the teacher of {self._topic}"
        )

    def _control_channel(self) -> KafkaControl:
        if self._control is None:
            self._control = student_control(self._connection, self._topic)
            if self._run is not None:
                self._control.conversation.run_id = self._run.info.stream.run_id
        return self._control

    def _leave_inherited(self) -> None:
        """In a forked child, leave the parent's clients alone and create new ones."""
        if self._pid != os.getpid():
            _INHERITED.extend(
                (self._reader, self._admin, self._control, self._watermarks, self._group)
            )
            if self._group is not None:
                self._group = copy(self._group)
            self._drop_clients()
            self._pid = os.getpid()

    def _drop_clients(self) -> None:
        """Replace all clients by new ones, which connect when they are first used."""
        self._run = self._identity_check = self._control = self._watermarks = None
        self._reader = PartitionReader(self._connection, self._topic)
        self._admin = KafkaTopic(self._connection, self._topic)

    def close(self) -> None:
        self._leave_inherited()
        if self._group is not None:
            self._group.close()
        self._reader.close()
        if self._control is not None:
            self._control.close()
        self._drop_clients()
        self._connection.registry.close()
