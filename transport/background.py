"""Background threads that end before the interpreter does.

A daemon thread that is inside torch when the interpreter shuts down aborts the process
(`terminate called without an active exception`), whatever exit code the program set. Non-daemon
threads would keep the process from exiting. Knows nothing of what the threads do.
"""

from __future__ import annotations

import atexit
import logging
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")

log = logging.getLogger(__name__)

# A forward pass or a block of a file takes seconds. What takes longer hangs, and must not keep the
# program from exiting.
_EXIT_WAIT_S = 20.0

_started: weakref.WeakSet[BackgroundThread] = weakref.WeakSet()


class BackgroundThread(threading.Thread):
    """A daemon thread that can be asked to end.

    Guarantee: at the interpreter's exit every running thread is asked to end, and the exit waits at
    most 20 seconds for all of them together.

    Args:
        target: What the thread runs.
        name: The thread's name.
        ask_to_end: Makes `target` return soon. May be called from any thread, and more than once.
    """

    def __init__(
        self, target: Callable[[], None], *, name: str, ask_to_end: Callable[[], None]
    ) -> None:
        super().__init__(target=target, name=name, daemon=True)
        self._ask_to_end = ask_to_end

    def start(self) -> None:
        """Start the thread, and register it to be ended at exit."""
        _started.add(self)
        super().start()

    def ask_to_end(self) -> None:
        """Ask the thread to end, without waiting. May be called from any thread and repeatedly."""
        self._ask_to_end()


def within(
    timeout_s: float, work: Callable[[], Result], *, name: str, give_up: Callable[[], None]
) -> Result:
    """Run `work` in a thread for at most `timeout_s`, and return its result or raise its error.

    For calls into libraries whose timeouts limit each step but not the whole call.

    Args:
        timeout_s: Seconds.
        work: The call.
        name: The thread's name.
        give_up: Makes running work fail soon, for example by closing its connection. Called at the
            timeout and when the caller is interrupted.

    Raises:
        TimeoutError: The work took longer. Its thread ends when the work does.
    """
    done: Future[Result] = Future()

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # raised to the caller
            done.set_exception(error)
        else:
            done.set_result(result)

    BackgroundThread(run, name=name, ask_to_end=give_up).start()
    try:
        return done.result(timeout_s)
    finally:
        if not done.done():
            give_up()


@atexit.register
def _end_all() -> None:
    threads = [thread for thread in _started if thread.is_alive()]
    for thread in threads:
        try:
            thread.ask_to_end()
        except Exception as error:  # go on with the other threads
            log.debug("thread %s could not be asked to end: %s", thread.name, error)
    deadline = time.monotonic() + _EXIT_WAIT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            log.warning(
                "thread %s has not ended after %.0f s; the program ends without it",
                thread.name,
                _EXIT_WAIT_S,
            )
