"""Packed records -> the Kafka client, each with its run's headers and time.

Delivery failures are raised by the next call. Knows nothing of what records hold.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from confluent_kafka import KafkaException, Producer

from tutelage.schemas.errors import DeliveryFailed
from tutelage.schemas.record import Array, RecordHead
from tutelage.transport.deliveries import Deliveries
from tutelage.transport.tracing import Tracing
from tutelage.transport.transactions import Transactions
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_WARN_AFTER_S = 5.0


class Sending:
    """Sends one run's records to one topic.

    Guarantee: after the first failure nothing is sent. Once `flush` has returned, the brokers have
    every record that `send` took.
    """

    def __init__(
        self,
        producer: Producer,
        topic: str,
        deliveries: Deliveries,
        *,
        delivery_timeout_s: float,
    ) -> None:
        self._producer = producer
        self._topic = topic
        self._deliveries = deliveries
        self._transactions: Transactions | None = None
        self._delivery_timeout_s = delivery_timeout_s
        self._tracing: Tracing | None = None
        self._headers: list[tuple[str, str | bytes | None]] = []
        self._earliest_ms = 0
        #: The current wait for room in the client's queue, if there is one.
        self.wait: Wait | None = None

    def begin(
        self, headers: Mapping[str, bytes], *, created: float, tracing: Tracing | None
    ) -> None:
        """Start a run.

        Args:
            headers: The headers of every record.
            created: The least time of a record, in seconds since the epoch.
            tracing: Makes the records' spans; None without tracing.
        """
        self._headers = list(headers.items())
        self._earliest_ms = round(created * 1000)
        self._tracing = tracing

    def take_over(self) -> None:
        """Send in transactions from now on.

        Fences an earlier transactional writer of the topic, and aborts its open transaction.
        """
        self._transactions = Transactions(self._producer, self._topic)

    def begin_transaction(self) -> None:
        """Begin a transaction, if records are sent in transactions and none is open."""
        if self._transactions is not None:
            self._in_transaction(self._transactions.begin)

    def send(self, partition: int, packed: Array, head: RecordHead) -> None:
        """Give a record to the client, which copies it. Waits while the client's queue is full."""
        headers, on_delivery = self._headers, self._deliveries.delivered
        # A run is found by its records' times: none may be earlier than the run, whatever this
        # machine's clock says.
        timestamp = max(round(time.time() * 1000), self._earliest_ms)
        if self._tracing is not None:
            carried, ended = self._tracing.sent(partition, head)
            headers, on_delivery = (
                headers + carried,
                partial(self._deliveries.delivered, ended=ended),
            )
        self._deliveries.begin()
        while True:
            self._deliveries.check_failure()
            try:
                # The client takes any buffer, contrary to its type hints.
                value: Any = packed
                self._producer.produce(
                    self._topic,
                    value=value,
                    partition=partition,
                    headers=headers,
                    on_delivery=on_delivery,
                    timestamp=timestamp,
                )
            except BufferError:
                self._await_room()
            except KafkaException as error:
                # Earlier failed deliveries hold the cause.
                self._poll(lambda: self._producer.poll(0))
                if self._tracing is not None:
                    ended(str(error))
                self._deliveries.fail(f", partition {partition}", error.args[0])
                self._deliveries.check_failure()
            else:
                self._deliveries.sent(partition, packed.nbytes)
                self.wait = None
                return

    def _await_room(self) -> None:
        """Let the client send while its queue is full; warn if that takes long."""
        if self.wait is None:
            # Times out later than `check_silence`, whose message says more.
            what = f"the broker to acknowledge records of topic {self._topic}"
            self.wait = Wait(what, timeout_s=2 * self._delivery_timeout_s, log=log)
        self._poll(lambda: self._producer.poll(0.1))
        self._deliveries.check_silence()
        if self._deliveries.in_flight:
            self.wait.tick()

    def serve(self) -> None:
        """Run delivery callbacks, raise failures, and commit a transaction that is due."""
        self._poll(lambda: self._producer.poll(0))
        if self._transactions is not None:
            self._in_transaction(self._transactions.commit_if_due)
        if self._deliveries.in_flight:
            self._deliveries.check_silence()

    def flush(self) -> None:
        """Wait until the brokers have acknowledged every record, and commit."""
        warned = False
        while self._poll(lambda: self._producer.flush(0.5)):
            self._deliveries.check_silence()
            if not warned and self._deliveries.silent_s > _WARN_AFTER_S:
                log.warning(
                    "waiting for the broker to acknowledge %d records of topic %s",
                    self._deliveries.in_flight,
                    self._topic,
                )
                warned = True
        self._deliveries.check_failure()
        if self._transactions is not None:
            self._in_transaction(self._transactions.commit)

    def close(self) -> None:
        """Release the client. Undelivered records are discarded: a restart writes them again."""
        try:
            if self._deliveries.failure is None:
                if self._transactions is not None:
                    self._transactions.abort()
                self._producer.flush(0.5)
            self._producer.purge()
            if self._transactions is None:
                self._producer.close()
            # A transactional client is not closed: that would abort the open transaction and wait
            # for it without limit.
        except (KafkaException, SystemError) as error:
            # After a fatal error every call of the client reports it again, even in callbacks.
            log.debug("closing the client of topic %s: %s", self._topic, error)

    def _in_transaction(self, call: Callable[[], None]) -> None:
        """Run a transaction's operation; after a failure nothing more is sent."""
        try:
            call()
        except DeliveryFailed as error:
            self._deliveries.failure = self._deliveries.failure or str(error)
            raise

    def _poll(self, call: Callable[[], int]) -> int:
        """Run a call that serves callbacks; raise the failures that they report."""
        try:
            left = call()
        except KafkaException as error:
            self._deliveries.fail("", error.args[0])
            left = 0
        self._deliveries.check_failure()
        return left
