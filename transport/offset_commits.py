"""Commits a student's progress to a consumer group, for lag tools and teachers with `max_ahead`.

Reading does not depend on it.
"""

from __future__ import annotations

import logging
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tutelage.schemas.errors import TransportError
from tutelage.schemas.topic import BEGINNING
from tutelage.transport.client_errors import DENIED, describe
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.topic_admin import KafkaTopic

log = logging.getLogger(__name__)

# How long to wait for the answers to the last commits, and for the ends that they need.
_LAST_ANSWER_S = 5.0
_WARN_EVERY_S = 60.0


class OffsetCommits:
    """Commits a student's offsets in one topic. Close it.

    Logs failures, and stops after an authorization error. Has its own consumer, opened when first
    needed, because `poll` blocks other threads' calls on a shared one.
    """

    def __init__(self, connection: KafkaConnection, name: str, topic: str) -> None:
        self._connection = connection
        self._name = name
        self._topic = topic
        self._reset()

    def _reset(self) -> None:
        self._consumer: Consumer | None = None
        self._denied = False
        self._pending = 0
        # The latest position, and whether the broker is known to have it.
        self._latest: tuple[KafkaTopic, tuple[int, ...], bool] | None = None
        self._wanted: list[TopicPartition] = []
        self._up_to_date = True
        self._warning_due = RateLimit(_WARN_EVERY_S)

    def __getstate__(self) -> dict[str, object]:
        return {"_connection": self._connection, "_name": self._name, "_topic": self._topic}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    def commit(self, admin: KafkaTopic, offsets: tuple[int, ...], *, at_end: bool) -> None:
        """Commit each partition's next offset, without waiting for the answer.

        The same offsets are committed again only if the last commit of them failed.

        Args:
            admin: The topic, for the partitions' ends.
            offsets: Each partition's next offset; BEGINNING where nothing was read.
            at_end: Whether everything was read. The partitions' ends are committed then: control
                records of transactions may follow the last record, and would look like lag for
                ever.
        """
        latest = (admin, offsets, at_end)
        try:
            again = self._latest is not None and self._latest[1:] == latest[1:]
            self._latest = latest
            self._poll(0)
            if not self._denied and not (again and (self._up_to_date or self._pending)):
                self._send(_LAST_ANSWER_S)
        except (KafkaException, TransportError) as error:
            self._warn(describe(error))

    def _send(self, timeout_s: float) -> None:
        """Commit the latest position; waits for the partitions' ends if they are needed."""
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
            # Nothing was read: nothing to commit. Up to date once earlier commits are answered.
            self._wanted = []
            self._up_to_date = not self._pending
            return
        if self._consumer is None:
            self._consumer = self._connection.consumer(
                self._name, settings={"on_commit": self._on_commit}
            )
        self._wanted = parts if known else []
        self._up_to_date = False
        self._consumer.commit(offsets=parts, asynchronous=True)
        self._pending += 1

    def _on_commit(self, error: KafkaError | None, parts: list[TopicPartition]) -> None:
        self._pending -= 1
        if error is not None:
            # A restarting broker, for example. The next commit contains everything again.
            self._denied = self._denied or error.code() in DENIED
            self._up_to_date = False
            self._warn(describe(error))
        else:
            # When brokers change, the client may repeat a commit after a later one: the last one
            # that was answered counts.
            failed = [part.error for part in parts if part.error is not None]
            self._up_to_date = not failed and _offsets(parts) == _offsets(self._wanted)
            if failed:
                self._warn(describe(failed[0]))

    def _poll(self, timeout_s: float) -> None:
        """Run callbacks of earlier commits. Nothing is assigned, so no record is returned."""
        message = self._consumer.poll(timeout_s) if self._consumer is not None else None
        error = message.error() if message is not None else None
        if error is not None and error.code() in DENIED and not self._denied:
            # Stop committing: `close` would wait for each commit.
            self._denied = True
            self._warn(describe(error))

    def _warn(self, why: str) -> None:
        if self._warning_due.due():
            log.warning(
                "group %s: progress was not committed (%s); only lag tools and max_ahead notice",
                self._name,
                why,
            )

    def close(self) -> None:
        """Commit what the broker is not known to have, for at most 5 s, and release the client."""
        if self._consumer is not None:
            deadline = time.monotonic() + _LAST_ANSWER_S
            try:
                while (
                    (self._pending or not self._up_to_date)
                    and not self._denied
                    and (left_s := deadline - time.monotonic()) > 0
                ):
                    # Closing the client waits too long for a commit in progress, so send none late.
                    if not self._pending and left_s > _LAST_ANSWER_S / 4:
                        self._send(left_s / 4)
                    self._poll(0.1)
            except (KafkaException, TransportError) as error:
                self._warn(describe(error))
            self._consumer.close()
        self._reset()


def _offsets(parts: list[TopicPartition]) -> dict[int, int]:
    return {part.partition: part.offset for part in parts}
