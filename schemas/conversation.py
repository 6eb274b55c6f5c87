"""The rules of the control messages between a student and a teacher: addressees and answers.

No I/O, threads or clocks. `control.py` encodes messages, and `transport/` carries them.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

# The latest questions whose answers are accepted. Bounds memory in runs of any length.
_MAX_OPEN_QUESTIONS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One control message.

    Attributes:
        id: Its unique id.
        session: The id of the conversation that sent it. Each process has its own.
        reply_to: The id of the message that it answers, or "".
        asks: Whether its sender waits for an answer.
        run_id: The run it belongs to, or "" if its sender did not know the run yet.
        seen: The offset after the last message that its sender has taken from its own inbox, where
            the sender continues after a restart.
        value: A JSON-like value that may hold tensors (numpy arrays) and bytes.
    """

    id: str
    session: str
    reply_to: str
    asks: bool
    run_id: str
    seen: int
    value: Any = field(repr=False)


class Conversation:
    """One side of a conversation.

    Guarantee: an answer reaches only the session that asked, and only if both sides are at the same
    run. Only the first session to answer a question is heard. Answers to an earlier session's
    questions are dropped.

    The first message that a teacher sends after it took a message is the answer to that message, so
    that a plain loop of `recv` and `send` answers questions. A student's message is an answer only
    to what was asked with `ask`.

    Args:
        answers_all: Whether every message that is not an answer counts as a question; so for a
            teacher.
    """

    def __init__(self, *, answers_all: bool) -> None:
        self._answers_all = answers_all
        self._session = uuid.uuid4().hex
        # Question id -> the session that answered first, or "".
        self._asked: OrderedDict[str, str] = OrderedDict()
        self._unanswered = ""
        # Messages not yet taken, each with its offset.
        self._waiting: deque[tuple[Message, int]] = deque()
        self._next_offset = 0
        #: The run that this side is at; "" while it is unknown.
        self.run_id = ""

    def start_at(self, offset: int) -> None:
        """Set the offset where reading of the inbox begins."""
        self._next_offset = offset

    @property
    def seen(self) -> int:
        """The offset after the messages that were taken."""
        return self._waiting[0][1] if self._waiting else self._next_offset

    def compose(self, value: Any, *, asks: bool = False) -> Message:
        """Make the next message to send.

        Args:
            value: A JSON-like value that may hold tensors and bytes.
            asks: Whether the other side is to answer.
        """
        message = Message(
            id=uuid.uuid4().hex,
            session=self._session,
            reply_to=self._unanswered,
            asks=asks,
            run_id=self.run_id,
            seen=self.seen,
            value=value,
        )
        self._unanswered = ""
        self._asked[message.id] = ""
        while len(self._asked) > _MAX_OPEN_QUESTIONS:
            self._asked.popitem(last=False)
        return message

    def receive(self, message: Message, offset: int) -> None:
        """Add the next message of the inbox; drop it if it is not for this side."""
        self._next_offset = offset + 1
        if self._is_for_us(message):
            self._waiting.append((message, offset))

    def take(self, answer_to: str = "") -> Message | None:
        """Take the next message.

        Args:
            answer_to: The id of a question, to take the answer to it instead.

        Returns:
            The message, or None if it has not arrived.
        """
        for index, (message, _) in enumerate(self._waiting):
            if not answer_to or message.reply_to == answer_to:
                del self._waiting[index]
                is_question = message.asks or (self._answers_all and not message.reply_to)
                self._unanswered = message.id if is_question else ""
                return message
        return None

    def _is_for_us(self, message: Message) -> bool:
        if self.run_id and message.run_id and message.run_id != self.run_id:
            return False
        if not message.reply_to:
            return True
        first = self._asked.get(message.reply_to)
        if first is None or first not in ("", message.session):
            return False
        self._asked[message.reply_to] = message.session
        return True
