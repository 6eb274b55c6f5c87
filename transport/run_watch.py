"""Detects, by id and delivered offsets, that a teacher's topic was replaced or taken over."""

from __future__ import annotations

from tutelage.schemas.errors import RunMismatch, TopicIdentityError
from tutelage.schemas.headers import run_from_headers
from tutelage.schemas.record import Stream
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.runs import FIRST_WINDOW, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_identity import IdentityCheck

_FOREIGN_EVERY_S = 1.0


class TopicWatch:
    """Watches the topic of one run. `delivered` notes offsets; `look` checks them.

    Guarantee: after the topic was deleted or recreated, `look` raises TopicIdentityError within
    some seconds, and `check_identity` at once. After a newer run began in it, `look` raises
    RunMismatch once a record of this run is delivered behind that run's records.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, *, topic_id: str, transactional: bool
    ) -> None:
        self._topic = topic
        self._runs = TopicRuns(connection, topic)
        self._identity = IdentityCheck(
            KafkaTopic(connection, topic),
            topic,
            topic_id,
            doing="the teacher wrote to it; its earlier records are gone",
            advice="Start the teacher again to write the run from its beginning",
        )
        # Control records of transactions take offsets too.
        self._counts_offsets = not transactional
        self._stream: Stream | None = None
        self._next: dict[int, int] = {}
        self._foreign: dict[int, tuple[int, int]] = {}
        self._regression = ""
        self._foreign_due = RateLimit(_FOREIGN_EVERY_S)

    def begin(self, stream: Stream, ends: list[int]) -> None:
        """Watch this run. Its first records get the offsets `ends` if nobody else writes."""
        self._stream = stream
        self._next = dict(enumerate(ends))

    def delivered(self, partition: int, offset: int) -> None:
        """Note a record's offset; a negative one means that the broker did not report it."""
        expected = self._next.get(partition)
        if offset < 0 or expected is None:
            self._next.pop(partition, None)
        elif offset < expected:
            self._regression = (
                f"partition {partition}: a record got offset {offset}, but {expected} was expected"
            )
        elif offset > expected and self._counts_offsets:
            self._foreign[partition] = (expected, offset)
        if offset >= 0:
            self._next[partition] = offset + 1

    def look(self) -> None:
        """Check the offsets noted since the last call, and the topic's id, without waiting for it.

        Raises:
            TopicIdentityError: The topic was replaced, or acknowledged records are gone.
            RunMismatch: A newer run began in the topic.
        """
        if self._regression:
            self.check_identity()
            raise TopicIdentityError(
                f"topic {self._topic}, {self._regression}: acknowledged records are gone, as after "
                "a recreated "
                "topic or an unclean leader election; write to a new topic"
            )
        if self._foreign and self._foreign_due.due():
            self._check_foreign()
        self._identity.look()

    def check_identity(self) -> None:
        """TopicIdentityError if the topic was replaced; TransportError if no broker answers."""
        self._identity.check()

    def _check_foreign(self) -> None:
        """Raise RunMismatch if foreign records between this run's are of a newer run."""
        foreign, self._foreign = self._foreign, {}
        ours = self._stream
        ranges = {
            partition: (max(start, stop - FIRST_WINDOW), stop)
            for partition, (start, stop) in foreign.items()
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
                        f"topic {self._topic}, partition {message.partition()}, offset "
                        f"{message.offset()}: run {run[0]} began behind "
                        f"{ours}; this teacher stops. Students of either run skip what it wrote "
                        "after that"
                    )
