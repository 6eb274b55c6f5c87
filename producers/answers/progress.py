"""What a replica has done: counts, and the offsets of queries whose answers are written."""

from __future__ import annotations

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
        calls: Calls of the model.
        forward_s: Seconds in the model and the encodings, of all devices.
    """

    queries: int = 0
    rows: int = 0
    nbytes: int = 0
    dropped: int = 0
    discarded: int = 0
    calls: int = 0
    forward_s: float = 0.0


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
