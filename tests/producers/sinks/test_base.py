"""What a sink of a user's own inherits."""

from __future__ import annotations

from typing import Any

import pytest

from tutelage import Sink
from tutelage.producers.record_share import RecordShare
from tutelage.schemas.errors import ConfigurationError


class OwnSink(Sink):
    """A sink that has nothing but what it must have."""

    @property
    def name(self) -> str:
        return "folder x"

    @property
    def label(self) -> str:
        return "x"

    def tail(self) -> None:
        return None

    def open(self, stream: Any, description: Any) -> None:
        return None

    def pack(self, encoded: Any) -> Any:
        return None

    def write(self, head: Any, packed: Any) -> None:
        return None

    def finish(self) -> None:
        return None

    def close(self) -> None:
        return None


def test_a_sink_without_a_student_says_what_control_messages_need() -> None:
    sink = OwnSink()
    for call in (lambda: sink.send(1), lambda: sink.recv(1.0), lambda: sink.ask(1, 1.0)):
        with pytest.raises(ConfigurationError, match="folder x carries no control messages"):
            call()


def test_a_sink_of_one_run_begins_no_other() -> None:
    with pytest.raises(ConfigurationError, match="folder x holds one run only"):
        OwnSink().begin_run(None)


def test_a_sink_of_one_writer_is_not_shared() -> None:
    for call in (
        lambda: OwnSink().share_with(RecordShare(rank=1, ranks=2)),
        lambda: OwnSink().look_again("run"),
    ):
        with pytest.raises(ConfigurationError, match="folder x has one writer"):
            call()
