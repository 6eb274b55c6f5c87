"""What was handed to the Kafka client and what came of it: counted, timed, and the first failure kept, behind which nothing is sent."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable

from confluent_kafka import KafkaError, Message

from tutelage.schemas.errors import AccessDenied, DeliveryFailed
from tutelage.transport.connection import DENIED, NEEDS_ACL
from tutelage.transport.transactions import FENCED, is_fenced


class Deliveries:
    """One topic's messages on their way.

    Guarantee: after the first failure, or `timeout_s` in which nothing was acknowledged, the `refuse_` methods raise it for ever.
    """

    def __init__(self, topic: str, timeout_s: float) -> None:
        self._topic = topic
        self._timeout_s = timeout_s
        # Those of a partition are reported in the order they were sent.
        self._sizes: dict[int, deque[int]] = defaultdict(deque)
        self._progress_s = 0.0
        self._denied = False
        #: The first failure, in words.
        self.failure: str | None = None
        self.in_flight = 0
        self.bytes_in_flight = 0
        self.by_partition: dict[int, int] = defaultdict(int)
        #: Called with the partition and offset of each record that was written; the offset is negative where the broker did not tell.
        self.on_offset: Callable[[int, int], None] | None = None
        #: Called with the seconds each delivery took.
        self.on_delivery: Callable[[float], None] | None = None

    @property
    def silent_s(self) -> float:
        """Seconds since anything was acknowledged, or begun to be sent."""
        return time.monotonic() - self._progress_s

    def begin(self) -> None:
        """Before a message is sent: with nothing on its way, silence begins now."""
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
        """What the client calls for each message; `ended` ends its span."""
        if ended is not None:
            ended(error.str() if error is not None else None)
        self.in_flight -= 1
        sizes = self._sizes[message.partition() or 0]
        # None there if a signal came between sending and counting.
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
        """Remember the first failure; nothing is sent behind it."""
        if self.failure is None:
            if is_fenced(error):
                why = FENCED
            elif error.code() == KafkaError.INVALID_RECORD:
                why = (
                    f"{error.str()}: the broker refuses records without a key, as a topic with cleanup.policy=compact does; set it to delete, and "
                    "write to a new topic, since compaction may have removed records of this one"
                )
            elif error.code() in DENIED:
                why = f"{error.str()}. {NEEDS_ACL}"
            else:
                why = (
                    f"{error.str()}; the teacher stops here, start it again to go on without a gap"
                )
            self._denied = error.code() in DENIED
            self.failure = f"topic {self._topic}{where}: {why}"

    def refuse_failure(self) -> None:
        """Raise the first failure, if there was one."""
        if self.failure is not None:
            raise AccessDenied(self.failure) if self._denied else DeliveryFailed(self.failure)

    def refuse_silence(self) -> None:
        """DeliveryFailed if nothing was acknowledged for too long."""
        if self.silent_s > self._timeout_s:
            raise DeliveryFailed(
                f"topic {self._topic}: the broker acknowledged nothing for {self.silent_s:.0f} s with {self.in_flight} records sent; "
                "start the teacher again to go on without a gap"
            )
