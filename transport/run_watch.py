"""Whether the topic that a teacher writes is still the one it began with, and still its own: by its identity and by delivered offsets."""

from __future__ import annotations

import logging

from tutelage.schemas.errors import RunMismatch, TopicIdentityError
from tutelage.schemas.headers import run_from_headers
from tutelage.schemas.record import Stream
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import FIRST_LOOK, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.waiting import RateLimit

log = logging.getLogger(__name__)

_OTHERS_EVERY_S = 1.0


class TopicWatch:
    """Watches one topic for one run. `delivered` only notes an offset; `look`, called now and then, raises what follows from it.

    Guarantee: a topic that was deleted or recreated is a TopicIdentityError within some seconds, and before `check_identity` returns; a
    newer run that began in it is a RunMismatch once a record of this one is delivered behind it.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, *, topic_id: str, transactional: bool
    ) -> None:
        self._topic = topic
        self._runs = TopicRuns(connection, topic)
        self._identity = IdentityCheck(
            KafkaTopic(connection, topic), topic, topic_id, doing="the teacher wrote to it; what it wrote before is gone",
            advice="Start the teacher again to write the run from its beginning",
        )  # fmt: skip
        # The markers of transactions take offsets of their own.
        self._counts_offsets = not transactional
        self._stream: Stream | None = None
        self._next: dict[int, int] = {}
        self._others: dict[int, tuple[int, int]] = {}
        self._set_back = ""
        self._others_due = RateLimit(_OTHERS_EVERY_S)

    def begin(self, stream: Stream, ends: list[int]) -> None:
        """Watch for this run, whose first records get the offsets `ends` if nobody else writes."""
        self._stream = stream
        self._next = dict(enumerate(ends))

    def delivered(self, partition: int, offset: int) -> None:
        """Note where a record was written; a negative offset says that the broker did not tell."""
        expected = self._next.get(partition)
        if offset < 0 or expected is None:
            self._next.pop(partition, None)
        elif offset < expected:
            self._set_back = (
                f"partition {partition}: a record got offset {offset}, where {expected} came next"
            )
        elif offset > expected and self._counts_offsets:
            self._others[partition] = (expected, offset)
        if offset >= 0:
            self._next[partition] = offset + 1

    def look(self) -> None:
        """Raise what was found out since the last look; asks for the topic's identity without waiting for the answer."""
        if self._set_back:
            self.check_identity()
            raise TopicIdentityError(
                f"topic {self._topic}, {self._set_back}: records that were acknowledged are gone, as after a recreated topic or an unclean "
                "leader election; write to a new topic"
            )
        if self._others and self._others_due.due():
            self._check_others()
        self._identity.look()

    def check_identity(self) -> None:
        """TopicIdentityError unless the topic is still the one that was begun with. TransportError if no broker says so."""
        self._identity.check()

    def _check_others(self) -> None:
        """RunMismatch if what others wrote between this run's records is a newer run; another writer of this run does no harm."""
        others, self._others = self._others, {}
        ours = self._stream
        ranges = {
            partition: (max(start, stop - FIRST_LOOK), stop)
            for partition, (start, stop) in others.items()
        }
        for messages in self._runs.messages(ranges).values():
            for message in messages:
                run = run_from_headers(message.headers() or ())
                if (
                    ours is not None
                    and run is not None
                    and run[0] != ours.run_id
                    and run[1] > ours.created
                ):
                    raise RunMismatch(
                        f"topic {self._topic}, partition {message.partition()}, offset {message.offset()}: run {run[0]} began behind "
                        f"{ours}; this teacher stops. Students of either run pass over what it wrote behind that"
                    )
