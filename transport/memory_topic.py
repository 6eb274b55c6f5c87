"""A topic in this process's memory, with partitions, offsets, headers, runs and control messages.

`MemorySink` writes it and `MemorySource` reads it. Both are public, because users test their
teachers too. Lists only grow at their end, which Python does atomically: writer and reader may be
different threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.schemas.conversation import Conversation, Message
from tutelage.schemas.headers import run_from_headers, stream_from_headers
from tutelage.schemas.record import Stream
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_POLL_S = 0.005


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRecord:
    """A record in a partition: its headers, the schema it was written with, and its Avro body."""

    headers: Sequence[tuple[str, bytes]]
    schema: str = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def run_id(self) -> str | None:
        """The run that its headers name."""
        run = run_from_headers(self.headers)
        return run[0] if run is not None else None


@dataclass(kw_only=True, slots=True, eq=False)
class MemoryTopic:
    """A topic in this process's memory, with partitions, offsets, runs and control messages.

    For tests: a `MemorySink` writes it, a `MemorySource` reads it, in the same thread or another.

    Args:
        name: Its name in messages.
        partitions: How many partitions it has, from 1.
        logs: The records of each partition. Made by the topic; do not give it.
        to_teacher: Control messages to the teacher. Made by the topic; do not give it.
        to_student: Control messages to the student. Made by the topic; do not give it.
    """

    name: str = "memory"
    partitions: int = 1
    logs: list[list[StoredRecord]] = field(default_factory=list, repr=False)
    to_teacher: list[Message] = field(default_factory=list, repr=False)
    to_student: list[Message] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.logs = [[] for _ in range(self.partitions)]

    def runs(self) -> list[Stream]:
        """Return the runs that the topic holds, oldest first.

        Returns:
            What each run's headers say.
        """
        found: dict[str, StoredRecord] = {}
        for each in self.logs[0]:
            if each.run_id is not None:
                found.setdefault(each.run_id, each)
        return sorted(
            (stream_from_headers(each.headers, self.name) for each in found.values()),
            key=lambda run: run.created,
        )

    def newest_run(self) -> Stream | None:
        """Return the run that began last.

        Returns:
            What its headers say; None if the topic holds nothing.
        """
        runs = self.runs()
        return runs[-1] if runs else None

    def holds(self, run_id: str) -> bool:
        """Say whether the topic holds records of a run.

        Args:
            run_id: The run's name.

        Returns:
            True if it does.
        """
        return any(run.run_id == run_id for run in self.runs())

    def conversation(self, side: str) -> MemoryControl:
        """Return one side's end of the control messages between teacher and student.

        Args:
            side: `"teacher"` or `"student"`.

        Returns:
            What sends and receives messages for that side.
        """
        if side == "teacher":
            frm = f"the student on memory topic {self.name!r}"
            return MemoryControl(
                outbox=self.to_student, inbox=self.to_teacher, frm=frm, is_teacher=True
            )
        frm = f"the teacher of memory topic {self.name!r}"
        return MemoryControl(
            outbox=self.to_teacher, inbox=self.to_student, frm=frm, is_teacher=False
        )


class MemoryControl:
    """Control messages within this process, by the same rules as over Kafka. Copies no values."""

    def __init__(
        self, *, outbox: list[Message], inbox: list[Message], frm: str, is_teacher: bool
    ) -> None:
        self._outbox = outbox
        self._inbox = inbox
        self._frm = frm
        self._read = outbox[-1].seen if is_teacher and outbox else 0
        self.conversation = Conversation(answers_all=is_teacher)
        self.conversation.start_at(self._read)

    def send(self, value: Any) -> None:
        """Send a value."""
        self._outbox.append(self.conversation.compose(value))

    def recv(self, timeout_s: float) -> Any:
        """Return the next value.

        Raises:
            WaitTimeout: None came in time.
        """
        return self._receive(
            Wait(f"a control message from {self._frm}", timeout_s=timeout_s, log=log)
        )

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a value and return the answer to it.

        Raises:
            WaitTimeout: None came in time.
        """
        question = self.conversation.compose(value, asks=True)
        self._outbox.append(question)
        return self._receive(
            Wait(f"an answer from {self._frm}", timeout_s=timeout_s, log=log), question.id
        )

    def _receive(self, wait: Wait, answer_to: str = "") -> Any:
        while True:
            while self._read < len(self._inbox):
                self.conversation.receive(self._inbox[self._read], self._read)
                self._read += 1
            message = self.conversation.take(answer_to)
            if message is not None:
                return message.value
            wait.tick()
            time.sleep(_POLL_S)
