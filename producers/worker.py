"""One thread that does one thing after the other, as futures; it never keeps the process from ending.

`concurrent.futures` joins its threads at exit, so that a forward pass or a loader that hangs would hang the interpreter with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class Worker:
    """A daemon thread with a queue. Close it."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._closed = False
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Future[Result]:
        """Queue a call; its future holds what it returns or raises."""
        future: Future[Result] = Future()
        self._queue.put((future, lambda: function(*args, **kwargs)))
        return future

    def close(self) -> None:
        """Drop what is queued and end the thread; does not wait for the call that is under way."""
        self._closed = True
        self._queue.put(None)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            future, call = item
            if self._closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # whatever it is, whoever waits for the future must hear of it
                future.set_exception(error)
            # Keep nothing of a finished call alive while waiting for the next.
            del item, future, call
