"""Packed records -> the Kafka client, each with its run's headers and time; what comes of them is raised from the next call."""

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

_SAY_AFTER_S = 5.0


class Sending:
    """One run's records on their way to one topic.

    Guarantee: after the first failure nothing is sent; a record that `send` took is on the brokers once `flush` returned.
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
        #: The wait for room in the client's queue that is under way, if one is.
        self.wait: Wait | None = None

    def begin(
        self, headers: Mapping[str, bytes], *, created: float, tracing: Tracing | None
    ) -> None:
        """Send records with these headers, none with a time before `created` (seconds since the epoch)."""
        self._headers = list(headers.items())
        self._earliest_ms = round(created * 1000)
        self._tracing = tracing

    def take_over(self) -> None:
        """Send in transactions. Ends whoever wrote the topic in transactions before, and aborts what was left open."""
        self._transactions = Transactions(self._producer, self._topic)

    def begin_transaction(self) -> None:
        """Begin a transaction, where records are sent in some and none is open."""
        if self._transactions is not None:
            self._in_transaction(self._transactions.begin)

    def send(self, partition: int, packed: Array, head: RecordHead) -> None:
        """Hand a record to the client, which copies it; waits while the client's queue is full."""
        headers, on_delivery = self._headers, self._deliveries.delivered
        # By its records' times a run is found in its topic: none is earlier than the run, whatever this machine's clock says.
        timestamp = max(round(time.time() * 1000), self._earliest_ms)
        if self._tracing is not None:
            carried, ended = self._tracing.sent(partition, head)
            headers, on_delivery = (
                headers + carried,
                partial(self._deliveries.delivered, ended=ended),
            )
        self._deliveries.begin()
        while True:
            self._deliveries.refuse_failure()
            try:
                # The client takes any buffer; its type hints do not say so.
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
                # The deliveries that failed before this one know why.
                self._served(lambda: self._producer.poll(0))
                if self._tracing is not None:
                    ended(str(error))
                self._deliveries.fail(f", partition {partition}", error.args[0])
                self._deliveries.refuse_failure()
            else:
                self._deliveries.sent(partition, packed.nbytes)
                self.wait = None
                return

    def _await_room(self) -> None:
        """The client's queue is full: let it send, and say so if that takes long."""
        if self.wait is None:
            # Its own limit is further away than that of silence, which knows more to say.
            what = f"the broker to take what was sent to topic {self._topic}"
            self.wait = Wait(what, timeout_s=2 * self._delivery_timeout_s, log=log)
        self._served(lambda: self._producer.poll(0.1))
        self._deliveries.refuse_silence()
        if self._deliveries.in_flight:
            self.wait.tick()

    def serve(self) -> None:
        """Hear what came of records that were sent, and raise it; commit a transaction that is due."""
        self._served(lambda: self._producer.poll(0))
        if self._transactions is not None:
            self._in_transaction(self._transactions.commit_if_due)
        if self._deliveries.in_flight:
            self._deliveries.refuse_silence()

    def flush(self) -> None:
        """Wait until the brokers have every record, and commit."""
        told = False
        while self._served(lambda: self._producer.flush(0.5)):
            self._deliveries.refuse_silence()
            if not told and self._deliveries.silent_s > _SAY_AFTER_S:
                log.warning(
                    "waiting for the broker to acknowledge %d records of topic %s",
                    self._deliveries.in_flight,
                    self._topic,
                )
                told = True
        self._deliveries.refuse_failure()
        if self._transactions is not None:
            self._in_transaction(self._transactions.commit)

    def close(self) -> None:
        """Release the client. Records that are not delivered by now are given up: a restart finds the tail and writes them again."""
        try:
            if self._deliveries.failure is None:
                if self._transactions is not None:
                    self._transactions.abort()
                self._producer.flush(0.5)
            self._producer.purge()
            if self._transactions is None:
                self._producer.close()
            # A transactional client is only let go of: closing it would abort what is open, and wait for that without end.
        except (KafkaException, SystemError) as error:
            # After a fatal error the client reports it again from wherever it is called, even from its own callbacks.
            log.debug("closing the client of topic %s: %s", self._topic, error)

    def _in_transaction(self, call: Callable[[], None]) -> None:
        """Do something with the transaction; after a failure nothing more is sent."""
        try:
            call()
        except DeliveryFailed as error:
            self._deliveries.failure = self._deliveries.failure or str(error)
            raise

    def _served(self, call: Callable[[], int]) -> int:
        """Let the client call back, and raise what it reports; a fatal error is raised by whichever call it is in."""
        try:
            left = call()
        except KafkaException as error:
            self._deliveries.fail("", error.args[0])
            left = 0
        self._deliveries.refuse_failure()
        return left
