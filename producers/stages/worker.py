"""One thread that does one thing after the other, as futures.

`concurrent.futures` joins its threads at exit, so that a forward pass or a loader that hangs would hang the interpreter with it. This
thread is waited for too, but for a bounded time (`transport/background.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from tutelage.transport.background import BackgroundThread

if TYPE_CHECKING:
    # It imports torch, and a sink's thread does without.
    from tutelage.producers.stages.surroundings import Surroundings

log = logging.getLogger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Executor(Protocol):
    """Whatever makes calls one after the other."""

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Make a call, now or later; its future holds what it returns or raises."""

    def close(self) -> None:
        """End once what was asked for is done."""

    def join(self, timeout_s: float) -> bool:
        """Wait until the last call is done. False if it is not in time."""


class Worker:
    """A thread with a queue, in the given surroundings. Close it."""

    def __init__(self, name: str, surroundings: Surroundings | None = None) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False
        self._last: Callable[[], object] | None = None
        self._surroundings = surroundings
        self._thread = BackgroundThread(self._run, name=name, ask_to_end=self.drop)
        self._thread.start()

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Queue a call; its future holds what it returns or raises."""
        future: Future[Result] = Future()
        self._queue.put((future, lambda: function(*args, **kwargs)))
        return future

    def close(self) -> None:
        """End the thread once the calls that are queued are made; does not wait."""
        self._queue.put(None)

    def drop(self, last: Callable[[], object] | None = None) -> None:
        """Drop what is queued and end the thread, with a last call if one is given; does not wait for the call that is under way."""
        self._last = last or self._last
        self._closed = True
        self._queue.put(None)

    def join(self, timeout_s: float) -> bool:
        """Wait until the thread has ended. False if it has not in time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        if self._surroundings is None:
            self._make_calls()
        else:
            self._surroundings.run(self._make_calls)

    def _make_calls(self) -> None:
        while (item := self._queue.get()) is not None:
            future, call = item
            if self._closed:
                future.cancel()
            _make_call(future, call)
            # Keep nothing of a finished call alive while waiting for the next.
            del item, future, call
        _make_last_call(self._last)


class CallingThread:
    """Makes each call at once, in the thread that asks for it."""

    def submit(
        self,
        function: Callable[Parameters, Result],
        /,
        *args: Parameters.args,
        **kwargs: Parameters.kwargs,
    ) -> Future[Result]:
        """Make the call; its future is done."""
        future: Future[Result] = Future()
        _make_call(future, lambda: function(*args, **kwargs))
        return future

    def close(self) -> None:
        """Nothing is queued."""

    def join(self, timeout_s: float) -> bool:
        """Nothing is under way."""
        return True


def _make_call(future: Future[Any], call: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(call())
    except BaseException as error:  # whatever it is, whoever waits for the future must hear of it
        future.set_exception(error)


def _make_last_call(call: Callable[[], object] | None) -> None:
    if call is None:
        return
    try:
        call()
    except BaseException as error:  # nobody waits for it any more
        log.warning("%s while ending: %s", type(error).__name__, error)
