"""Detects that a topic was deleted or recreated: a new topic has the same name, but another id."""

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
    """Compares a topic's id with its earlier one.

    Guarantee: after a topic was deleted or recreated, `look` raises TopicIdentityError within some
    seconds, and `check` at once.

    Args:
        admin: The topic.
        name: The topic's name.
        topic_id: Its id until now.
        doing: What is done with the topic; stands behind "while" in errors.
        advice: What to do about an error.
    """

    def __init__(
        self, admin: KafkaTopic, name: str, topic_id: str, *, doing: str, advice: str
    ) -> None:
        self._admin = admin
        self._name = name
        self._topic_id = topic_id
        self._doing = doing
        self._advice = advice
        self._answer: Future[Any] | None = None
        self._due = RateLimit(_EVERY_S)
        self._due.due()

    def look(self) -> None:
        """Request the id every few seconds, without waiting, and check the last answer.

        Raises:
            TopicIdentityError: The topic was deleted or recreated.
        """
        if self._answer is None:
            if self._due.due():
                self._answer = self._admin.described()
        elif self._answer.done():
            answer, self._answer = self._answer, None
            try:
                found = self._admin.topic_id(answer)
                if found:
                    self._compare(found)
                else:
                    self.check()
            except TransportError as error:
                log.debug("the identity of topic %s could not be checked: %s", self._name, error)

    def check(self) -> None:
        """Request the id, wait for it and check it.

        Raises:
            TopicIdentityError: The topic was deleted or recreated.
            TransportError: No broker answered.
        """
        deadline = time.monotonic() + _GONE_AFTER_S
        # A broker may not know a new topic yet, or any topic just after it restarted.
        while (
            not (found := self._admin.topic_id(self._admin.described()))
            and time.monotonic() < deadline
        ):
            time.sleep(_ASKED_AGAIN_S)
        self._compare(found)

    def _compare(self, now: str) -> None:
        if now != self._topic_id:
            raise TopicIdentityError(
                f"topic {self._name} was {'recreated' if now else 'deleted'} while {self._doing}. "
                f"{self._advice}"
            )
