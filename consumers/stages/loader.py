"""Loads chunks that lie in files: ahead by the thread that finds them, and by whoever waits for them, outside the interpreter's lock.

Chunks whose rows are in memory already pass as they are.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from tutelage.consumers.stages.rebatch import Chunk


class PendingChunk:
    """A chunk that is to be loaded, is being loaded, or is loaded."""

    __slots__ = ("_done", "chunk", "error", "seconds")

    def __init__(self, chunk: Chunk) -> None:
        self.chunk = chunk
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._done = threading.Lock()
        if chunk.loads:
            self._done.acquire()

    def run(self) -> None:
        """Load it."""
        began = time.perf_counter()
        try:
            self.chunk.load()
        except (
            BaseException
        ) as error:  # whatever it is, whoever waits for the chunk must hear of it
            self.error = error
        finally:
            self.seconds = time.perf_counter() - began
            self._done.release()

    def done(self, timeout_s: float) -> bool:
        """Whether it is loaded, or failed, within so many seconds."""
        if not self._done.acquire(timeout=timeout_s):
            return False
        self._done.release()
        return True


class Loader:
    """Keeps the chunks that wait to be loaded, in order. Has no thread of its own: who fetches loads ahead, who waits lends a hand."""

    def __init__(self) -> None:
        self._waiting: deque[PendingChunk] = deque()

    def loading(self, chunk: Chunk) -> PendingChunk:
        """Have a chunk loaded."""
        loading = PendingChunk(chunk)
        if chunk.loads:
            self._waiting.append(loading)
        return loading

    def work(self, *, leave: int = 0) -> None:
        """Load what waits, but for the last `leave` chunks."""
        while len(self._waiting) > leave and (loading := self._next()) is not None:
            loading.run()

    def loaded(self, loading: PendingChunk, timeout_s: float) -> bool:
        """Whether a chunk is loaded within so many seconds; until it is, others are loaded here: two read faster than one."""
        while not loading.done(0) and (other := self._next()) is not None:
            other.run()
        return loading.done(timeout_s)

    def _next(self) -> PendingChunk | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
