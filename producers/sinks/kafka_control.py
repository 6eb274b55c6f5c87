"""A teacher's control messages to its student, on two topics beside the topic of its records."""

from __future__ import annotations

from typing import Any

from tutelage.schemas.topic import to_student_topic, to_teacher_topic
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.control_topics import KafkaControl


class TeacherControl:
    """The teacher's end of the conversation. It opens its clients on first use; close it.

    Args:
        connection: The cluster and its registry.
        topic: The topic of the records.
        replication: Replicas of the control topics, if they are created; -1 for the cluster's
            default.
        create: Whether to create missing control topics.
    """

    def __init__(
        self, connection: KafkaConnection, topic: str, *, replication: int, create: bool
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._replication = replication
        self._create = create
        self._run_id = ""
        self._since_s = 0.0
        self._control: KafkaControl | None = None

    def bind_run(self, run_id: str) -> None:
        """Make messages belong to a run from now on."""
        self._run_id = run_id
        if self._control is not None:
            self._control.conversation.run_id = run_id

    def ignore_before(self, since_s: float) -> None:
        """Ignore messages that name no run and are older than this time, in seconds since the
        epoch. Must be called before the first message."""
        self._since_s = since_s

    def send(self, value: Any) -> None:
        """Send a value and wait until the broker has it. Raises DeliveryFailed."""
        self._opened().send(value)

    def recv(self, timeout_s: float) -> Any:
        """Return the student's next value. Raises WaitTimeout if none arrives in time."""
        return self._opened().recv(timeout_s=timeout_s, frm="the student")

    def ask(self, value: Any, timeout_s: float) -> Any:
        """Send a value and return the student's answer. Raises WaitTimeout if none arrives."""
        return self._opened().ask(value, timeout_s=timeout_s, frm="the student")

    def close(self) -> None:
        """Release the clients. May be called twice."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _opened(self) -> KafkaControl:
        if self._control is None:
            self._control = KafkaControl(
                self._connection,
                outbox=to_student_topic(self._topic),
                inbox=to_teacher_topic(self._topic),
                sender=f"teacher of {self._topic}",
                is_teacher=True,
                since_s=self._since_s,
                replication=self._replication,
                create=self._create,
            )
            self._control.conversation.run_id = self._run_id
        return self._control
