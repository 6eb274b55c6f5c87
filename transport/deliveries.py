"""Counts and times the messages given to the Kafka client, and keeps the first failure.

Sends nothing itself.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from confluent_kafka import KafkaError, Message

from tutelage.schemas.errors import AccessDenied, DeliveryFailed
from tutelage.transport.client_errors import DENIED, NEEDS_ACL
from tutelage.transport.transactions import FENCED, is_fenced


class Deliveries:
    """One topic's messages in flight.

    Guarantee: after the first failure `check_failure` always raises it; while nothing has been
    acknowledged for `timeout_s`, `check_silence` raises DeliveryFailed.
    """

    def __init__(self, topic: str, timeout_s: float) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        # Deliveries of a partition are reported in the order of sending.
        self._sizes: dict[int, deque[int]] = defaultdict(deque)
        self._progress_s = 0.0
        self._denied = False
        #: The first failure, in words.
        self.failure: str | None = None
        self.in_flight = 0
        self.bytes_in_flight = 0
        self.by_partition: dict[int, int] = defaultdict(int)
        #: Called with the partition and offset of each written record. The offset is negative if
        #: the broker did not report it.
        self.on_offset: Callable[[int, int], None] | None = None
        #: Called with the seconds that each delivery took.
        self.on_delivery: Callable[[float], None] | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since the last acknowledgement, or since sending began."""
        return time.monotonic() - self._progress_s

    def begin(self) -> None:
        """Note that a message is about to be sent. With none in flight, silence starts now."""
        if not self.in_flight:
            self._progress_s = time.monotonic()

    def sent(self, partition: int, nbytes: int) -> None:
        """Count a message that the client took."""
        self.in_flight += 1
        self.bytes_in_flight += nbytes
        self._sizes[partition].append(nbytes)
        self.by_partition[partition] += 1

    def delivered(
        self,
        error: KafkaError | None,
        message: Message,
        ended: Callable[[str | None], None] | None = None,
    ) -> None:
        """Note a delivery or its failure; called by the client. `ended` ends the message's span."""
        if ended is not None:
            ended(error.str() if error is not None else None)
        self.in_flight -= 1
        sizes = self._sizes[message.partition() or 0]
        # Empty if a signal interrupted between sending and counting.
        self.bytes_in_flight -= sizes.popleft() if sizes else 0
        self._progress_s = time.monotonic()
        if self.on_delivery is not None:
            self.on_delivery(message.latency() or 0.0)
        if error is not None:
            self.fail(f", partition {message.partition()}", error)
        elif self.on_offset is not None:
            offset = message.offset()
            self.on_offset(message.partition() or 0, -1 if offset is None else offset)

    def fail(self, where: str, error: KafkaError) -> None:
        """Keep the first failure; nothing is sent after it."""
        if self.failure is None:
            if is_fenced(error):
                why = FENCED
            elif error.code() == KafkaError.INVALID_RECORD:
                why = (
                    f"{error.str()}: the broker rejects records without a key, which happens with "
                    "cleanup.policy=compact; set it to delete, and write to a new topic: "
                    "compaction may "
                    "have removed records of this one"
                )
            elif error.code() in DENIED:
                why = f"{error.str()}. {NEEDS_ACL}"
            else:
                why = (
                    f"{error.str()}; the teacher stops here; start it again to go on without a gap"
                )
            self._denied = error.code() in DENIED
            self.failure = f"topic {self._topic}{where}: {why}"

    def check_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise AccessDenied(self.failure) if self._denied else DeliveryFailed(self.failure)

    def check_silence(self) -> None:
        """Raise DeliveryFailed if nothing was acknowledged for too long."""
        if self.silent_s > self._timeout_s:
            raise DeliveryFailed(
                f"topic {self._topic}: the broker acknowledged nothing for {self.silent_s:.0f} s "
                f"with {self.in_flight} records sent; "
                "start the teacher again to go on without a gap"
            )
