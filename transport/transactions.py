"""Transactions around a sink's records, for foreign readers of committed data (ksqlDB, Flink).

Our readers do not need them: exactly-once comes from the records' numbers, and a transaction only
decides when others see them. The transactional id is derived from the topic, so a second writer of
the topic fences the first. If the outcome of a commit is unknown, the producer is discarded: the
commit could still affect a later transaction of the same producer
(https://jepsen.io/analyses/bufstream-0.1.0), but not one of a new producer, which has a new epoch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, Producer

from tutelage.schemas.errors import AccessDenied, DeliveryFailed
from tutelage.transport.client_errors import DENIED, NEEDS_ACL, describe
from tutelage.transport.connection import BROKER_TIMEOUT_S

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 1.0
_TIMEOUT_S = 30.0

FENCED = "another writer has taken over the topic (FENCED); this teacher stops here"


def is_fenced(error: KafkaError) -> bool:
    """Whether an error says that a newer transactional writer has fenced this one."""
    return error.code() in (
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    )


def transactional_options(topic: str) -> Mapping[str, object]:
    """Return the client's options for the transactional writer of a topic."""
    timeout_ms = int(_TIMEOUT_S * 1000)
    return {
        "transactional.id": f"tutelage.{topic}",
        "transaction.timeout.ms": timeout_ms,
        # A message must not outlive its transaction.
        "message.timeout.ms": timeout_ms,
    }


class Transactions:
    """One producer's transactions: begun by a record, committed after a second and at the end.

    Guarantee: whole records are committed, in order. A writer that was fenced, or whose commit
    failed, writes nothing more.
    """

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer = producer
        self._topic = topic
        self._began: float | None = None
        self._call(
            "begin to write in transactions",
            lambda: producer.init_transactions(6 * BROKER_TIMEOUT_S),
        )

    def begin(self) -> None:
        """Begin a transaction, unless one is open."""
        if self._began is None:
            self._call("begin a transaction", self._producer.begin_transaction)
            self._began = time.monotonic()

    def commit_if_due(self) -> None:
        """Commit the open transaction if it is a second old."""
        if self._began is not None and time.monotonic() - self._began >= COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Commit the open transaction; waits until its records are delivered."""
        if self._began is not None:
            self._call(
                "commit a transaction", lambda: self._producer.commit_transaction(_TIMEOUT_S)
            )
            self._began = None

    def abort(self) -> None:
        """Abort the open transaction within 2 s; else it times out at the broker."""
        if self._began is not None:
            self._began = None
            try:
                self._producer.abort_transaction(2.0)
            except (KafkaException, SystemError) as error:
                log.debug("topic %s: a transaction was not aborted: %s", self._topic, error)

    def _call(self, doing: str, call: object) -> None:
        assert callable(call), "the methods above pass a function"
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                call()
                return
            except KafkaException as error:
                cause = error.args[0]
                if cause.retriable() and time.monotonic() < deadline:
                    continue
                why = (
                    FENCED
                    if is_fenced(cause)
                    else f"{describe(error)}; this teacher stops; start it again to go on without a gap"
                )
                if cause.code() in DENIED:
                    raise AccessDenied(
                        f"topic {self._topic}: could not {doing}: {cause.str()}. {NEEDS_ACL}"
                    ) from error
                raise DeliveryFailed(f"topic {self._topic}: could not {doing}: {why}") from error
