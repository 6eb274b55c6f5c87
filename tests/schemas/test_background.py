"""Calls that must end in time, whatever they call."""

from __future__ import annotations

import threading

import pytest

from tutelage.schemas.background import within


def test_the_result_or_the_error_of_the_work_comes_back() -> None:
    assert within(60, lambda: 7, name="t", give_up=pytest.fail) == 7
    with pytest.raises(KeyError, match="mine"):
        within(60, lambda: dict[str, int]()["mine"], name="t", give_up=pytest.fail)


def test_work_that_takes_too_long_is_given_up() -> None:
    given_up = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.05, lambda: given_up.wait(60), name="t", give_up=given_up.set)
    assert given_up.is_set()


def test_a_timeout_of_the_work_s_own_is_not_taken_for_ours() -> None:
    def work() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        within(60, work, name="t", give_up=pytest.fail)
