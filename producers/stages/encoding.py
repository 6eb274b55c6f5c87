"""Records -> packed bytes, on NUM_POSTPROCESS_THREADS threads, given back in order.

The threads pay where work leaves the interpreter's lock: checksums, copies and compression of large records.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from tutelage.producers.run import Packed, Run, Work
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError

THREADS_VARIABLE = "NUM_POSTPROCESS_THREADS"
DEFAULT_THREADS = 8
_MOST_THREADS = 256


def postprocess_threads(threads: int | None = None) -> int:
    """How many threads encode: as given, or as NUM_POSTPROCESS_THREADS says (the name is Pantheon's), or 8."""
    if threads is not None:
        return check_whole_number("threads", threads, most=_MOST_THREADS)
    text = os.environ.get(THREADS_VARIABLE, str(DEFAULT_THREADS))
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= _MOST_THREADS:
        raise ConfigurationError(
            f"{THREADS_VARIABLE} is {text!r}; it must be a number of threads from 1 to {_MOST_THREADS}"
        )
    return int(text)


class Encoding:
    """A window of records that are being encoded. Close it; it ends its threads.

    Guarantee: records come out in the order they went in, or the first error comes out in place of its record.
    """

    def __init__(self, run: Run, threads: int) -> None:
        self._run = run
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="tutelage-encode")
        self._window = threads + 2
        self._futures: deque[Future[Packed]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether more records may be added; the window is what bounds memory."""
        return len(self._futures) < self._window

    @property
    def oldest(self) -> Future[Packed] | None:
        """The future of the record that comes out next."""
        return self._futures[0] if self._futures else None

    def add(self, work: list[Work]) -> None:
        """Begin to encode records."""
        self._futures.extend(self._threads.submit(self._run.encode, item) for item in work)

    def write_oldest(self) -> None:
        """Give the oldest record to the run's sink, waiting until it is encoded."""
        self._run.write(self._futures.popleft().result())

    def close(self) -> None:
        """Drop what is not encoded and end the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._futures.clear()
