"""Batches of a pass -> groups of batches, read before the model needs them.

The model gets exactly what a plain loop over the inputs would give it. This module does not know
what the inputs are, nor what is done with the batches.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

from tutelage.producers.stages.ownership import CannotCopy, owned
from tutelage.producers.stages.thread_context import is_about_threads
from tutelage.producers.stages.worker import Executor
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)

_END = object()
MAX_GROUP = 256
# A group that is not full is passed on after this time, so that slow inputs do not wait for each
# other.
GROUP_SECONDS = 0.001
# Written passes are read through in steps of about this length, so that the main loop can report
# progress between them.
_STEP_SECONDS = 0.2


class ReadAhead:
    """Reads a pass's batches in groups, up to `depth` groups ahead. The caller must close it.

    Guarantee: a batch keeps the content that it had when it was read.

    Batches are copied unless `new_memory()` is true. A batch that cannot be copied blocks reading
    until `release` is called.

    Args:
        batches: The iterator over the pass's batches.
        depth: How many groups may be requested before they are taken.
        thread: Where reading happens.
        ahead: Whether to read ahead. If False, batches are not copied, and each blocks reading.
        new_memory: Whether batches need no copy; called after each batch was read.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        *,
        depth: int = 2,
        thread: Executor,
        ahead: bool = True,
        new_memory: Callable[[], bool] = lambda: False,
    ) -> None:
        self._batches = batches
        self._thread = thread
        self._depth = depth
        self._ahead = ahead
        self._new_memory = new_memory
        # The requested groups, the number of the oldest one that was not taken, and the number of
        # the one being read. A part may be taken only of the oldest group.
        self._futures: list[Future[list[Any]]] = []
        self._oldest = 0
        self._reading = -1
        self._group: list[Any] = []
        self._lock = threading.Lock()
        #: Whether the last batch must be processed before the next one is read, because reading may
        #: overwrite its memory.
        self.blocked = False
        self._logged = False
        self._closed = False
        self.group_size = 1
        self.exhausted = False

    def next_group(self) -> Future[list[Any]] | None:
        """Return the future of the next group, in order.

        None if there are no more groups, or while reading is blocked.
        """
        while len(self._futures) < self._depth and not self.exhausted and not self.blocked:
            self._futures.append(self._thread.submit(self._read, self.group_size))
        return self._futures[0] if self._futures else None

    def take(self) -> list[Any]:
        """Return the next group, whose future must be done. Raises what the inputs raised.

        An empty group means that there are no more batches, unless reading is blocked.
        """
        group = self._futures.pop(0).result()
        self._oldest += 1
        if group and group[-1] is _END:
            group.pop()
            self.exhausted = True
            self._futures.clear()
        return group

    @property
    def waits(self) -> bool:
        """Whether all batches that were read are taken, and reading is blocked until `release`."""
        return self.blocked and not self._futures and not self.exhausted

    def release(self) -> None:
        """Resume reading. The batches that were taken must no longer be in use."""
        self.blocked = False

    @property
    def holds_part(self) -> bool:
        """Whether batches were read whose group is not complete yet."""
        return bool(self._group)

    def take_part(self) -> list[Any]:
        """Return the batches of the next group that were read so far.

        They are used at once instead of waiting for the rest of their group.
        """
        with self._lock:
            if self._reading != self._oldest:
                return []
            part, self._group = self._group, []
            return part

    def _read(self, size: int) -> list[Any]:
        with self._lock:
            self._reading += 1
        began = time.perf_counter()
        while not self.blocked and not self._closed:
            batch = self._next()
            blocks = batch is not _END and not self._ahead
            if batch is not _END and self._ahead and not self._new_memory():
                try:
                    batch = owned(batch)
                except CannotCopy:
                    blocks = True
                    self._log_once(batch)
            with self._lock:
                self._group.append(batch)
                self.blocked = blocks
                if (
                    blocks
                    or batch is _END
                    or len(self._group) >= size
                    or time.perf_counter() - began > GROUP_SECONDS
                ):
                    group, self._group = self._group, []
                    return group
        # The previous group blocks reading, or the reader is closed.
        return []

    def _next(self) -> Any:
        try:
            return next(self._batches, _END)
        except Exception as error:
            if self._ahead and is_about_threads(error):
                raise ConfigurationError(
                    f"the inputs raised {type(error).__name__}: {error}. Inputs are read in a "
                    "thread of their own: make the connection in the function or generator that is "
                    "given as inputs, or read them in the calling thread: "
                    "serve(..., read_ahead=False)"
                ) from error
            raise

    def _log_once(self, batch: Any) -> None:
        if not self._logged:
            self._logged = True
            log.info(
                "the inputs' batches (%s) hold objects that cannot be copied, so each is read only "
                "once the one before it is done",
                type(batch).__name__,
            )

    def read_through(self) -> Future[bool]:
        """Read and drop batches for about 0.2 s. The future says whether there are more.

        Must not be mixed with `next_group`.
        """
        return self._thread.submit(self._step)

    def _step(self) -> bool:
        began = time.perf_counter()
        while time.perf_counter() - began < _STEP_SECONDS:
            if self._next() is _END:
                return False
        return True

    def close(self) -> None:
        """Stop reading, and close the inputs' generator in the thread that read it.

        Does not wait for a batch that is being read.
        """
        self._closed = True
        self._thread.submit(getattr(self._batches, "close", lambda: None))
