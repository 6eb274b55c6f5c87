"""Numbers, times and paths that no stream and no checkpoint has: each is refused by name, before it is used."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import invoke
from support.hostile_files import claiming
from support.streams import NUMBERS, stream_of

from tutelage import FileSink, FileSource, Student, Teacher
from tutelage.consumers.checkpoint_file import load_checkpoint, save_checkpoint
from tutelage.schemas.errors import ConfigurationError, CorruptData, TopicIdentityError
from tutelage.schemas.headers import run_from_headers, stream_from_headers, stream_headers
from tutelage.schemas.limits import Limits
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.timeout(120)

GOOD = dict(stream_headers(stream_of(), NUMBERS))
BEYOND = (0, -1, 2**31, 2**63, 10**30)


@pytest.mark.parametrize("count", BEYOND)
@pytest.mark.parametrize("name", ["partitions", "rows_per_record", "passes"])
def test_counts_in_headers_that_no_stream_has_are_refused_by_name(
    tmp_path: Path, name: str, count: int
) -> None:
    with pytest.raises(CorruptData, match=rf"here: header tutelage\.{name} is {count}"):
        stream_from_headers({**GOOD, f"tutelage.{name}": str(count).encode()}, "here")
    path = claiming(tmp_path / "a.avro", NUMBERS, **{name: count})
    for command in ("inspect", "verify", "learn", "replay"):
        result = invoke(
            command, str(path), *(["t", "-b", "127.0.0.1:1"] if command == "replay" else [])
        )
        assert (result.code, f"tutelage.{name} is {count}" in result.err) == (5, True), result.err


def test_partitions_beyond_the_limit_are_refused_and_within_a_higher_one_read() -> None:
    many = {**GOOD, "tutelage.partitions": b"2000000"}
    with pytest.raises(
        CorruptData, match=r"over the limit of 10000; .*Limits\(partitions=2000000\)"
    ):
        stream_from_headers(many, "here")
    assert stream_from_headers(many, "here", Limits(partitions=2_000_000)).partitions == 2_000_000


def test_a_run_with_more_partitions_than_its_topic_is_refused_before_any_of_them_is_asked_for() -> (
    None
):
    stream = stream_of(partitions=9999)
    run: Any = FoundRun(stream=stream, message=None)  # type: ignore[arg-type]
    with pytest.raises(
        TopicIdentityError,
        match="topic t has 4 partitions, run run of teacher 't' was written to 9999",
    ):
        TopicRuns(KafkaConnection("127.0.0.1:1"), "t").starts(run, 4)


@pytest.mark.parametrize("created", ["1e300", "253402300800", "-1e300", "1" + "0" * 300])
def test_a_run_begun_beyond_time_is_refused_and_never_the_newest(
    tmp_path: Path, created: str
) -> None:
    headers = {**GOOD, "tutelage.created": created.encode()}
    with pytest.raises(CorruptData, match=r"here: header tutelage\.created"):
        stream_from_headers(headers, "here")
    assert run_from_headers(headers) is None
    path = claiming(tmp_path / "a.avro", NUMBERS, created=float(created))
    assert invoke("inspect", str(path)).code == 5


def test_a_replay_of_many_partitions_is_asked_about_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = claiming(tmp_path / "a.avro", NUMBERS, partitions=5000)
    there = [0]
    monkeypatch.setattr(KafkaTopic, "partitions", lambda self: there[0])
    reached: list[int] = []

    def sink(topic: str, *, partitions: int, **_: Any) -> Any:
        reached.append(partitions)
        raise ConfigurationError("no further")

    monkeypatch.setattr("tutelage.producers.sinks.kafka.KafkaSink", sink)
    asked = invoke("replay", str(path), "t")
    assert asked.code == 2 and not reached
    assert "5,000 partitions" in asked.err and "--yes" in asked.err
    invoke("replay", str(path), "t", "--yes")
    there[0] = 5000
    invoke("replay", str(path), "t")
    assert reached == [5000, 5000]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    there[0] = 0
    for answer in (False, True):
        monkeypatch.setattr("typer.confirm", lambda text, err, answer=answer: answer)
        assert invoke("replay", str(path), "t").code == 2
    assert reached == [5000] * 3


@pytest.mark.parametrize("offset", [2**63, 10**30, -(10**30)])
def test_numbers_beyond_64_bits_in_a_checkpoint_are_refused_wherever_they_are_used(
    tmp_path: Path, offset: int
) -> None:
    with Teacher(FileSink(tmp_path / "a.avro")) as teacher:
        teacher.write({"x": np.arange(64)})

    def student() -> Student:
        made = Student(timeout_s=2)
        made.register_teacher(FileSource(tmp_path / "a.avro"))
        made.start()
        return made

    with student() as first:
        next(first.knowledge(4))
        state = first.state_dict()
    for name in ("offsets", "sequence", "row", "pass_index"):
        position = {
            **state["sources"][0]["position"],
            name: [offset] if name == "offsets" else offset,
        }
        changed = {**state, "sources": [{**state["sources"][0], "position": position}]}
        with student() as second:
            second.load_state_dict(changed)
            with pytest.raises(CorruptData):
                second.commit()
            with pytest.raises(CorruptData):
                next(second.knowledge(4))


def test_what_takes_a_checkpoint_s_or_source_s_place_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it comes between a look at the path and its opening."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for _ in range(2):
            for path in (
                tmp_path / "pipe",
                tmp_path / "socket",
                Path("/dev/zero"),
                Path("/dev/ptmx"),
            ):
                with pytest.raises(
                    ConfigurationError, match="a pipe, a socket or a device|a folder or a device"
                ):
                    load_checkpoint(path)
                with pytest.raises(ConfigurationError, match="a pipe, a socket or a device"):
                    FileSource(path).open(0)
            # Whatever looks at the path finds a file there.
            monkeypatch.setattr(os.path, "isfile", lambda path: True)


def test_a_checkpoint_without_end_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "good.json", {"version": 2})
    with (tmp_path / "c.json").open("wb") as file:
        file.write(b"[")
        file.truncate(1 << 40)
    with pytest.raises(CorruptData, match="larger than 16 MiB"):
        load_checkpoint(tmp_path / "c.json")
