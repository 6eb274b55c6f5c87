"""Records -> packed bytes, on NUM_POSTPROCESS_THREADS threads, in order.

Threads pay where work leaves the interpreter's lock: checksums, copies and compression of large
records.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tutelage.producers.stages.stage import Stage
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.record import Column, RecordHead

THREADS_VARIABLE = "NUM_POSTPROCESS_THREADS"
DEFAULT_THREADS = 8
_MOST_THREADS = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordParts:
    """A record to encode: its head, and each column in pieces."""

    head: RecordHead
    columns: Mapping[str, list[Column]] = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedRecord:
    """A record as its sink writes it, its size in Avro bytes, and the seconds that making it took."""

    head: RecordHead
    packed: Any = field(repr=False)
    nbytes: int
    seconds: float


def postprocess_threads(threads: int | None = None) -> int:
    """Return how many threads encode.

    Args:
        threads: The number. If not given, NUM_POSTPROCESS_THREADS of the environment (the name is
            Pantheon's), or 8.

    Raises:
        ConfigurationError: It is not a number of threads from 1 to 256.
    """
    if threads is not None:
        return check_whole_number("threads", threads, most=_MOST_THREADS)
    text = os.environ.get(THREADS_VARIABLE, str(DEFAULT_THREADS))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST_THREADS:
        raise ConfigurationError(
            f"{THREADS_VARIABLE} is {text!r}; it must be a number of threads from 1 to "
            f"{_MOST_THREADS}"
        )
    return int(text)


class EncodeThreads:
    """The threads that encode. Close them."""

    def __init__(self, threads: int) -> None:
        self.count = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="tutelage-encode")

    def submit(
        self, encode: Callable[[RecordParts], PackedRecord], parts: RecordParts
    ) -> Future[PackedRecord]:
        """Encode a record in one of the threads."""
        return self._pool.submit(encode, parts)

    def close(self) -> None:
        """Drop what is not encoded and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class EncodeStage:
    """Encodes records in threads, a bounded number at a time.

    Guarantee: records leave in the order in which they came. An error is raised in place of its
    record; one of a stage before, behind the records before it.
    """

    def __init__(
        self,
        records: Stage[RecordParts],
        encode: Callable[[RecordParts], PackedRecord],
        threads: EncodeThreads,
    ) -> None:
        self._records = records
        self._encode = encode
        self._threads = threads
        self._window = threads.count + 2
        self._futures: deque[Future[PackedRecord]] = deque()
        self._failed: Exception | None = None

    @property
    def is_busy(self) -> bool:
        """Whether records are being encoded."""
        return bool(self._futures)

    def poll(self, *, eager: bool) -> PackedRecord | None:
        """Return the next record if it is encoded, and begin to encode others."""
        while self._has_room and (parts := self._next(eager=eager)) is not None:
            self._futures.append(self._threads.submit(self._encode, parts))
        if self._futures and self._futures[0].done():
            return self._futures.popleft().result()
        if self._failed is not None and not self._futures:
            raise self._failed
        return None

    def pending(self) -> Sequence[Future[Any]]:
        """The oldest record, and what the stages before wait for while there is room for more."""
        more = self._records.pending() if self._has_room else ()
        return [*more, self._futures[0]] if self._futures else more

    @property
    def _has_room(self) -> bool:
        return len(self._futures) < self._window and self._failed is None

    def _next(self, *, eager: bool) -> RecordParts | None:
        try:
            return self._records.poll(eager=eager)
        except Exception as error:  # whatever the model or the inputs raise
            self._failed = error
            return None
