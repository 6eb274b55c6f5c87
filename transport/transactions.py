"""Transactions around a sink's records, for foreign readers that read committed data (ksqlDB, Flink): none of ours needs them.

Exactly-once comes from the records' numbers; a transaction only decides when others may see them. Its id is the topic's, so a second writer of
the topic fences the first. After a commit of which nobody knows what came of it the producer is given up: a later transaction of the same
producer could be hit by it (https://jepsen.io/analyses/bufstream-0.1.0), a new one, with a new epoch, cannot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException, Producer

from tutelage.schemas.errors import AccessDenied, DeliveryFailed
from tutelage.transport.connection import BROKER_TIMEOUT_S, DENIED, NEEDS_ACL, describe

log = logging.getLogger(__name__)

COMMIT_EVERY_S = 1.0
_TIMEOUT_S = 30.0


FENCED = "another writer has taken the topic over (FENCED); this teacher stops here"


def is_fenced(error: KafkaError) -> bool:
    """Whether a newer transactional writer of the topic is why something was refused."""
    return error.code() in (
        KafkaError._FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.PRODUCER_FENCED,
    )


def transactional_options(topic: str) -> Mapping[str, object]:
    """The client's options for the transactional writer of a topic."""
    timeout_ms = int(_TIMEOUT_S * 1000)
    return {
        "transactional.id": f"tutelage.{topic}",
        "transaction.timeout.ms": timeout_ms,
        # A message must not outlive its transaction.
        "message.timeout.ms": timeout_ms,
    }


class Transactions:
    """One producer's transactions: begun by the first record, committed after a second, and at the end.

    Guarantee: what is committed is whole records in order; a writer that was fenced or whose commit failed writes no more.
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
        """Commit what has been open for long enough."""
        if self._began is not None and time.monotonic() - self._began >= COMMIT_EVERY_S:
            self.commit()

    def commit(self) -> None:
        """Commit what is open; waits until all of it is delivered."""
        if self._began is not None:
            self._call(
                "commit a transaction", lambda: self._producer.commit_transaction(_TIMEOUT_S)
            )
            self._began = None

    def abort(self) -> None:
        """Give up what is open, as well as can be done within a moment; what cannot, times out at the broker."""
        if self._began is not None:
            self._began = None
            try:
                self._producer.abort_transaction(2.0)
            except (KafkaException, SystemError) as error:
                log.debug("topic %s: a transaction was not aborted: %s", self._topic, error)

    def _call(self, doing: str, call: object) -> None:
        assert callable(call), "given by the methods above"
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
                    else f"{describe(error)}; this teacher stops here, start it again to go on without a gap"
                )
                if cause.code() in DENIED:
                    raise AccessDenied(
                        f"topic {self._topic}: could not {doing}: {cause.str()}. {NEEDS_ACL}"
                    ) from error
                raise DeliveryFailed(f"topic {self._topic}: could not {doing}: {why}") from error
