"""What a replica has done: counts, and the offsets of queries whose answers are written."""

from __future__ import annotations

import time
from collections import deque
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
    """Queries whose answers the brokers have -> the offsets to commit, for lag displays."""

    def __init__(self) -> None:
        self._sent: dict[int, deque[int]] = {}
        self._written: dict[int, int] = {}

    def sent(self, partition: int, next_offset: int) -> None:
        """Note an answer that was sent, and the offset behind its query."""
        self._sent.setdefault(partition, deque()).append(next_offset)

    def written(self, partition: int) -> None:
        """Note that the brokers have the next answer of a partition."""
        waiting = self._sent.get(partition)
        if waiting:
            self._written[partition] = waiting.popleft()

    def forget(self, partition: int) -> None:
        """Forget a partition that another replica owns now."""
        self._sent.pop(partition, None)
        self._written.pop(partition, None)

    def offsets(self) -> dict[int, int]:
        """Return what is to be committed since the last call."""
        found, self._written = self._written, {}
        return found
