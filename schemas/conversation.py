"""The rules of a conversation between a student and a teacher: which message is for whom, and what it answers.

Pure: no I/O, threads or clocks. `control.py` encodes messages; `kafka_control.py` and `memory_topic.py` carry them.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

# Questions whose answers are still expected; of older ones an answer is dropped. Memory stays bounded in runs of any length.
_MOST_OPEN = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One control message.

    Attributes:
        id: Its own name, unique.
        session: The conversation of one process that wrote it.
        reply_to: The id of the message that it answers, or "".
        asks: Whether its writer waits for the answer to it.
        run_id: The run it belongs to, or "" where its writer did not know it yet.
        seen: The offset in its writer's inbox up to which messages were taken: a writer that starts again goes on there.
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

    Guarantee: an answer is taken only by the session that asked, only once per question from one answering session, and only for the run
    both speak of; what an earlier session asked is never taken as an answer to this one.

    What a teacher sends first after it took a message answers that message, so that a plain loop of `recv` and `send` is a conversation
    of questions and answers. A student answers only what was asked with `ask`.
    """

    def __init__(self, *, answers_all: bool) -> None:
        self._answers_all = answers_all
        self._session = uuid.uuid4().hex
        # The question's id -> the session that answered it first.
        self._asked: OrderedDict[str, str] = OrderedDict()
        self._unanswered = ""
        # Messages that came while the answer to a question was awaited, each with its offset.
        self._waiting: deque[tuple[Message, int]] = deque()
        self._next_offset = 0
        #: The run that this side speaks of; "" while it is not known.
        self.run_id = ""

    def begin_at(self, offset: int) -> None:
        """Begin to read the inbox at this offset."""
        self._next_offset = offset

    @property
    def seen(self) -> int:
        """The offset behind the messages that were taken."""
        return self._waiting[0][1] if self._waiting else self._next_offset

    def compose(self, value: Any, *, asks: bool = False) -> Message:
        """A message to be sent."""
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
        while len(self._asked) > _MOST_OPEN:
            self._asked.popitem(last=False)
        return message

    def arrived(self, message: Message, offset: int) -> None:
        """Take in the inbox's next message; those that are not for this side are dropped."""
        self._next_offset = offset + 1
        if self._is_for_us(message):
            self._waiting.append((message, offset))

    def taken(self, answer_to: str = "") -> Message | None:
        """The next message, or the answer to the question of that id; None if it is not there yet."""
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
