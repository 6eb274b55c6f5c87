"""Whether a topic is still the one it was: a deleted topic that was created again has its name, and nothing else of it."""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future
from typing import Any

from tutelage.schemas.errors import TopicIdentityError, TransportError
from tutelage.transport.rate_limit import RateLimit
from tutelage.transport.topic_admin import KafkaTopic

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_GONE_AFTER_S = 3.0
_ASKED_AGAIN_S = 0.2


class IdentityCheck:
    """Compares a topic's id with the one it had. `doing` says what is done with it, and `advice` what to do about an error.

    Guarantee: a topic that was deleted or recreated is a TopicIdentityError from `look` within some seconds, and from `check` at once.
    """

    def __init__(
        self, asked: KafkaTopic, name: str, topic_id: str, *, doing: str, advice: str
    ) -> None:
        self._asked = asked
        self._name = name
        self._topic_id = topic_id
        self._doing = doing
        self._advice = advice
        self._answer: Future[Any] | None = None
        self._due = RateLimit(_EVERY_S)
        self._due.due()

    def look(self) -> None:
        """Ask now and then, without waiting for the answer; raise what the last answer says."""
        if self._answer is None:
            if self._due.due():
                self._answer = self._asked.described()
        elif self._answer.done():
            answer, self._answer = self._answer, None
            try:
                found = self._asked.topic_id(answer)
                if found:
                    self._compare(found)
                else:
                    self.check()
            except TransportError as error:
                log.debug("the identity of topic %s could not be checked: %s", self._name, error)

    def check(self) -> None:
        """Ask and wait for the answer. TransportError if no broker gives one."""
        deadline = time.monotonic() + _GONE_AFTER_S
        # A broker that does not know the topic may not have heard of it yet: of a new topic, or when it has just started again.
        while (
            not (found := self._asked.topic_id(self._asked.described()))
            and time.monotonic() < deadline
        ):
            time.sleep(_ASKED_AGAIN_S)
        self._compare(found)

    def _compare(self, now: str) -> None:
        if now != self._topic_id:
            raise TopicIdentityError(
                f"topic {self._name} was {'recreated' if now else 'deleted'} while {self._doing}. {self._advice}"
            )
