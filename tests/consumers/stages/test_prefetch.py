"""A stage runs ahead in a thread within its budget; items, errors and the end come in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tutelage.consumers.stages.bounded_queue import Closed
from tutelage.consumers.stages.prefetch import Prefetch
from tutelage.consumers.stages.stage import LastItem


class Numbers:
    """A stage that gives 0, 1, 2 ... , None now and then, and then its end or an error."""

    def __init__(self, count: int, error: Exception | None = None) -> None:
        self.given = 0
        self.closed = 0
        self._count = count
        self._error = error
        self._turns = 0

    def poll(self, *, eager: bool = True) -> int | LastItem | None:
        self._turns += 1
        if self._turns % 3 == 0:
            return None
        if self.given == self._count:
            if self._error is not None:
                raise self._error
            return LastItem()
        self.given += 1
        return self.given - 1

    def close(self) -> None:
        self.closed += 1


def ahead_of(
    source: Numbers,
    budget: int = 4,
    read: Callable[[int | LastItem], Callable[[], None] | None] = lambda item: None,
) -> Prefetch[int | LastItem]:
    return Prefetch(source, budget=budget, size_of=lambda item: 1, read=read, name="test")


def items_of(stage: Prefetch[int | LastItem]) -> Iterator[int]:
    while not isinstance(item := stage.poll(), LastItem):
        if item is not None:
            yield item


@pytest.mark.parametrize("budget", [1, 4, 1000])
def test_items_come_in_order_and_then_the_end(budget: int) -> None:
    source = Numbers(100)
    stage = ahead_of(source, budget)
    assert list(items_of(stage)) == list(range(100))
    stage.close()
    assert source.closed == 1


def test_no_more_is_kept_than_the_budget_allows() -> None:
    source = Numbers(100)
    stage = ahead_of(source, 4)
    deadline = time.monotonic() + 10
    while len(stage.kept()) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    # One more is in the thread's hands.
    assert stage.kept() == [0, 1, 2, 3]
    assert source.given == 5
    stage.close()


def test_an_error_comes_behind_the_items_before_it_and_again_after_that() -> None:
    stage = ahead_of(Numbers(3, ValueError("broken")))
    found: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        for number in items_of(stage):
            found.append(number)  # noqa: PERF402  # what came before the error counts
    assert found == [0, 1, 2]
    with pytest.raises(ValueError, match="broken"):
        stage.poll()
    stage.close()


def test_what_must_be_read_is_read_once_before_it_is_given_and_a_failure_comes_behind_it() -> None:
    read: list[int] = []
    lock = threading.Lock()

    def reading(item: int | LastItem) -> Callable[[], None] | None:
        if not isinstance(item, int) or item % 2 == 0:
            return None

        def run() -> None:
            if item == 41:
                raise OSError("gone")
            with lock:
                read.append(item)

        return run

    stage = ahead_of(Numbers(100), 8, reading)
    found: list[int] = []
    with pytest.raises(OSError, match="gone"):
        while True:
            item = stage.poll()
            if isinstance(item, int):
                with lock:
                    assert item % 2 == 0 or item == 41 or item in read
                found.append(item)
    assert found == list(range(42))
    assert len(read) == len(set(read))
    stage.close()


def test_close_ends_a_thread_that_waits_for_room_and_whoever_polls_next_is_told() -> None:
    source = Numbers(100)
    stage = ahead_of(source, 1)
    stage.close()
    assert source.closed == 1
    with pytest.raises(Closed):
        stage.poll()
    stage.close()
