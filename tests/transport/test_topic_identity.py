"""A topic is called deleted or recreated once its brokers agree, and not because one of them has not heard of it yet."""

from __future__ import annotations

import logging
from concurrent.futures import Future
from typing import Any

import pytest

from tutelage.schemas.errors import TopicIdentityError, WaitTimeout
from tutelage.transport import topic_identity as kafka_identity
from tutelage.transport.outages import once_known
from tutelage.transport.topic_identity import IdentityCheck
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class Brokers:
    """Answer one after the other, the last one for good; "" is said by those that do not know the topic."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    def described(self) -> Future[Any]:
        """A question that was answered already."""
        future: Future[Any] = Future()
        future.set_result(None)
        return future

    def topic_id(self, described: Future[Any]) -> str:
        """The next broker's answer."""
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_EVERY_S", 0.0), ("_GONE_AFTER_S", 0.2), ("_ASKED_AGAIN_S", 0.01)):
        monkeypatch.setattr(kafka_identity, name, seconds)


def check_of(*answers: str) -> IdentityCheck:
    brokers: Any = Brokers(*answers)
    return IdentityCheck(brokers, "t", "mine", doing="it was read", advice="Begin anew")


def looked(check: IdentityCheck) -> None:
    """Look until an answer was looked at, as a reader does."""
    for _ in range(4):
        check.look()


@pytest.mark.parametrize("ask", [IdentityCheck.check, looked])
@pytest.mark.parametrize("answers", [("mine",), ("", "mine"), ("", "", "", "mine")])
def test_a_broker_that_has_not_heard_of_the_topic_is_asked_again(
    ask: Any, answers: tuple[str, ...]
) -> None:
    ask(check_of(*answers))


@pytest.mark.parametrize("ask", [IdentityCheck.check, looked])
@pytest.mark.parametrize(
    ("answers", "words"),
    [(("",), "was deleted"), (("other",), "was recreated"), (("", "", "other"), "was recreated")],
)
def test_a_topic_that_is_gone_or_another_is_said(
    ask: Any, answers: tuple[str, ...], words: str
) -> None:
    with pytest.raises(TopicIdentityError, match=f"topic t {words} while it was read. Begin anew"):
        ask(check_of(*answers))


def test_what_is_not_known_yet_is_waited_for_within_the_wait() -> None:
    answers: list[dict[str, str]] = [{}, {}, {"topic_id": "mine"}]
    assert once_known(lambda: answers.pop(0), Wait("topic t", timeout_s=5, log=log)) == {
        "topic_id": "mine"
    }
    with pytest.raises(WaitTimeout, match="topic t"):
        once_known(dict, Wait("topic t", timeout_s=0.2, log=log))
