"""A student's progress in a consumer group: committed for lag tools and for teachers that wait for it; nothing read depends on it."""

from __future__ import annotations

import logging
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tutelage.schemas.errors import TransportError
from tutelage.schemas.topic import BEGINNING
from tutelage.transport.connection import DENIED, KafkaConnection, describe
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.topic_admin import KafkaTopic

log = logging.getLogger(__name__)

# How long the answer to the last commits, and to what they need, is waited for.
_LAST_ANSWER_S = 5.0
_SAID_EVERY_S = 60.0


class OffsetCommits:
    """Commits how far a student has come with one topic; says where it cannot, and leaves it where it may not.

    By a client of its own: one that another thread polls lets nobody in between its polls. Made when it is first needed; close it.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str) -> None:
        self._connection = connection
        self._name = name
        self._topic = topic
        self._begin()

    def _begin(self) -> None:
        self._consumer: Consumer | None = None
        self._denied = False
        self._pending = 0
        # What is to be committed in the end, and whether that is what the broker has, as far as is known.
        self._latest: tuple[KafkaTopic, tuple[int, ...], bool] | None = None
        self._wanted: list[TopicPartition] = []
        self._settled = True
        self._said = RateLimit(_SAID_EVERY_S)

    def __getstate__(self) -> dict[str, object]:
        return {"_connection": self._connection, "_name": self._name, "_topic": self._topic}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin()

    def commit(self, admin: KafkaTopic, offsets: tuple[int, ...], *, at_end: bool) -> None:
        """Commit where each partition goes on, without waiting for the answer; the same again only if it came to nothing before.

        Args:
            admin: Asked for the partitions' ends.
            offsets: Each partition's next offset; BEGINNING where nothing was read.
            at_end: Whether everything was read, so that the partitions' ends are committed: control records of transactions may follow
                the last record, and would look like lag for ever.
        """
        latest = (admin, offsets, at_end)
        try:
            again = self._latest is not None and self._latest[1:] == latest[1:]
            self._latest = latest
            self._serve(0)
            if not self._denied and not (again and (self._settled or self._pending)):
                self._send(_LAST_ANSWER_S)
        except (KafkaException, TransportError) as error:
            self._say(describe(error))

    def _send(self, timeout_s: float) -> None:
        """Commit the latest position; the ends of the partitions, where they are needed for it, are waited for."""
        if self._latest is None:
            return
        admin, offsets, at_end = self._latest
        known = True
        if at_end:
            try:
                offsets = tuple(admin.end_offsets(len(offsets), timeout_s=timeout_s))
            except TransportError as error:
                log.debug("the ends of topic %s are not known yet: %s", self._topic, error)
                known = False
        parts = [
            TopicPartition(self._topic, partition, offset)
            for partition, offset in enumerate(offsets)
            if offset != BEGINNING
        ]
        if not parts:
            # The beginning: nothing is committed, and nothing owed once the earlier ones are answered.
            self._wanted = []
            self._settled = not self._pending
            return
        if self._consumer is None:
            self._consumer = self._connection.consumer(
                self._name, settings={"on_commit": self._answered}
            )
        self._wanted = parts if known else []
        self._settled = False
        self._consumer.commit(offsets=parts, asynchronous=True)
        self._pending += 1

    def _answered(self, error: KafkaError | None, parts: list[TopicPartition]) -> None:
        self._pending -= 1
        if error is not None:
            # A broker that starts again, say: the next commit says it all once more.
            self._denied = self._denied or error.code() in DENIED
            self._settled = False
            self._say(describe(error))
        else:
            # The client sends a commit again behind a later one where brokers change: the last that was answered is what counts.
            failed = [part.error for part in parts if part.error is not None]
            self._settled = not failed and _places(parts) == _places(self._wanted)
            if failed:
                self._say(describe(failed[0]))

    def _serve(self, timeout_s: float) -> None:
        """Hear what came of earlier commits; nothing is assigned, so no record comes."""
        message = self._consumer.poll(timeout_s) if self._consumer is not None else None
        error = message.error() if message is not None else None
        if error is not None and error.code() in DENIED and not self._denied:
            # No more of them: each would be waited for at the end.
            self._denied = True
            self._say(describe(error))

    def _say(self, why: str) -> None:
        if self._said.due():
            log.warning(
                "group %s: progress was not committed (%s); only lag tools and max_ahead notice",
                self._name,
                why,
            )

    def close(self) -> None:
        """Commit once more what the broker is not known to have, wait a few seconds at most, and release the client."""
        if self._consumer is not None:
            deadline = time.monotonic() + _LAST_ANSWER_S
            try:
                while (
                    (self._pending or not self._settled)
                    and not self._denied
                    and (left_s := deadline - time.monotonic()) > 0
                ):
                    # Whatever is under way when the client is closed is waited for there, longer than is good.
                    if not self._pending and left_s > _LAST_ANSWER_S / 4:
                        self._send(left_s / 4)
                    self._serve(0.1)
            except (KafkaException, TransportError) as error:
                self._say(describe(error))
            self._consumer.close()
        self._begin()


def _places(parts: list[TopicPartition]) -> dict[int, int]:
    return {part.partition: part.offset for part in parts}
