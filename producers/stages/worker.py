"""One thread that makes calls one after the other, and returns their results as futures.

`concurrent.futures` joins its threads at exit, so a forward pass or a loader that hangs would hang
the interpreter. This thread is joined too, but only for a limited time
(`transport/background.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from tutelage.transport.background import BackgroundThread

if TYPE_CHECKING:
    # It imports torch, which a sink's thread does not need.
    from tutelage.producers.stages.thread_context import ThreadContext

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Executor(Protocol):
    """Makes calls one after the other."""

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Make a call, now or later. The future holds what it returns or raises."""

    def close(self) -> None:
        """End once all submitted calls are made."""

    def join(self, timeout_s: float) -> bool:
        """Wait until the last call is done. Returns False if it is not done in time."""


class Worker:
    """A thread with a queue of calls. Close it.

    Args:
        name: The thread's name.
        context: The context to make the calls in; the thread's own if not given.
    """

    def __init__(self, name: str, context: ThreadContext | None = None) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False
        self._last: Callable[[], object] | None = None
        self._context = context
        self._thread = BackgroundThread(self._run, name=name, ask_to_end=self.drop)
        self._thread.start()

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Queue a call. The future holds what it returns or raises."""
        future: Future[Result] = Future()
        self._queue.put((future, lambda: function(*args, **kwargs)))
        return future

    def close(self) -> None:
        """End the thread once the queued calls are made. Does not wait."""
        self._queue.put(None)

    def drop(self, last: Callable[[], object] | None = None) -> None:
        """Cancel the queued calls and end the thread. Does not wait for the current call.

        Args:
            last: A call to make at the end, in the thread.
        """
        self._last = last or self._last
        self._closed = True
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended. Returns False if it has not ended in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._context is None:
            self._make_calls()
        else:
            self._context.run(self._make_calls)

    def _make_calls(self) -> None:
        while (item := self._queue.get()) is not None:
            future, call = item
            if self._closed:
                future.cancel()
            _make_call(future, call)
            # While waiting for the next call, keep no reference to this one.
            del item, future, call
        _make_last_call(self._last)


class CallingThread:
    """Makes each call at once, in the thread that submits it."""

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Make the call. The future is done on return."""
        future: Future[Result] = Future()
        _make_call(future, lambda: function(*args, **kwargs))
        return future

    def close(self) -> None:
        """Does nothing: no call is ever queued."""

    def join(self, timeout_s: float) -> bool:
        """Returns True: no call is ever running."""
        return True


def _make_call(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # passed on to whoever waits for the future
        future.set_exception(error)


def _make_last_call(call: Callable[[], object] | None) -> None:
    if call is None:
        return
    try:
        call()
    except BaseException as error:  # no caller is left to raise it in
        log.warning("%s while ending: %s", type(error).__name__, error)
