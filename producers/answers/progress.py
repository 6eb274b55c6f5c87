"""What a replica has done: counts, and the offsets of queries whose answers are written."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class ReplicaStats:
    """What a replica did.

    Args:
        queries: Query records that it answered.
        rows: Rows of them.
        nbytes: Bytes of their answers.
        dropped: Query records that were answered already, or written twice.
        discarded: Answers that it did not write, because another replica owned their partition by
            then.
        given_up: Query records that it gave up, because they had ended too many replicas.
        calls: Calls of the model.
        tokens: Elements of the longest ragged key that the model was given, without padding.
        forward_s: Seconds in the model and the encodings, of all devices.
    """

    queries: int = 0
    rows: int = 0
    nbytes: int = 0
    dropped: int = 0
    discarded: int = 0
    given_up: int = 0
    calls: int = 0
    tokens: int = 0
    forward_s: float = 0.0


class Backoff:
    """Allows an action at once, and again after pauses that grow.

    Args:
        first_s: The first pause, in seconds.
        most_s: The longest.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._pause_s = first_s
        self._most_s = most_s
        self._next_s = 0.0

    def due(self) -> bool:
        """Whether the action is due. If so, the next pause begins."""
        now = time.monotonic()
        if now < self._next_s:
            return False
        self._next_s = now + self._pause_s
        self._pause_s = min(self._most_s, 1.5 * self._pause_s)
        return True


class Progress:
    """Queries that were taken, and answers that the brokers have -> the offsets to commit.

    Lag displays and autoscaling read them: once every query has its answer, the offset of each
    partition is its end, also behind records that need no answer.
    """

    def __init__(self) -> None:
        # Partition -> for each query without an answer, the offset behind it and behind those after
        # it that need none.
        self._taken: dict[int, deque[int]] = {}
        self._committable: dict[int, int] = {}
        # Partition -> answers on their way, and how many of those are of a time before the
        # partition was another replica's.
        self._in_flight: Counter[int] = Counter()
        self._stale: Counter[int] = Counter()

    def taken(self, partition: int, next_offset: int) -> None:
        """Note a query to answer, and the offset behind it. In the order of offsets."""
        self._taken.setdefault(partition, deque()).append(next_offset)

    def passed(self, partition: int, next_offset: int) -> None:
        """Note that nothing from the last query that was taken up to this offset needs an answer."""
        waiting = self._taken.get(partition)
        if waiting:
            waiting[-1] = next_offset
        else:
            self._committable[partition] = next_offset

    def sent(self, partition: int) -> None:
        """Note that the answer to the next query of a partition was sent."""
        self._in_flight[partition] += 1

    def written(self, partition: int) -> None:
        """Note that the brokers have the next answer of a partition."""
        self._in_flight[partition] -= 1
        if self._stale[partition]:
            self._stale[partition] -= 1
            return
        waiting = self._taken.get(partition)
        if waiting:
            self._committable[partition] = waiting.popleft()

    def is_written(self, partition: int) -> bool:
        """Whether the brokers have every answer that was sent to a partition."""
        return not self._in_flight[partition]

    def forget(self, partition: int) -> None:
        """Forget a partition that another replica owns now."""
        self._taken.pop(partition, None)
        self._committable.pop(partition, None)
        self._stale[partition] = self._in_flight[partition]

    def offsets(self) -> dict[int, int]:
        """Return what is to be committed since the last call."""
        found, self._committable = self._committable, {}
        return found
