"""What `watch` says is what is there: the words, the screen, and a real topic with its reader standing still."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from support.commands import invoke
from support.watched_run import BATCH, HELD_BATCHES, RECORD, ROWS, TUTELAGE, watched_run

from tutelage.cli.watch_screen import WatchScreen, topics_of, verdicts_of
from tutelage.deploy.local.ports import free_ports
from tutelage.tools.verdicts import verdicts
from tutelage.tools.watch_view import PartitionView, StudentView, TopicView, View


def topic(name: str = "t", *, read: int | None = 3, end: int = 10) -> TopicView:
    return TopicView(
        topic=name, teacher=f"teacher of {name}", passes=1, rows_per_record=4,
        partitions=[PartitionView(first=0, read=read, end=end, rate=2.5)], quiet_s=0.5,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("view", "said"),
    [
        (
            View(topics=[TopicView(topic="t")], student=None, trouble=[]),
            "topic t does not exist yet",
        ),
        (View(topics=[topic()], student=None, trouble=["no metrics at x"]), "no metrics at x"),
        (
            View(topics=[topic(), topic("u", read=1)], student=None, trouble=[]),
            "behind: 9 records of u",
        ),
        (View(topics=[topic(read=9)], student=None, trouble=[]), "behind: 1 record of t"),
        (View(topics=[topic(read=10)], student=None, trouble=[]), "behind: nothing"),
        (
            View(topics=[topic(read=10)], student=None, trouble=[], group="g"),
            "behind: nothing, all records are read (group g)",
        ),
        (
            View(
                topics=[], student=StudentView(starved=0.9, waits={"a": 0.8, "b": 0.1}), trouble=[]
            ),
            "waiting for batches; the slow teacher is a",
        ),
        (
            View(
                topics=[], student=StudentView(starved=0.9, waits={"a": 0.8, "b": 0.7}), trouble=[]
            ),
            "a and b are equally slow",
        ),
        (
            View(topics=[], student=StudentView(starved=0.01, waits={"a": 0.0}), trouble=[]),
            "the student is not starved: it spends 1%",
        ),
        (
            View(topics=[replace(topic(), quiet_s=61.0)], student=None, trouble=[]),
            "t: the run is not complete, and nothing was written for 61 s",
        ),
        (
            View(topics=[replace(topic(), quiet_s=61.0, finished=True)], student=None, trouble=[]),
            "t: its run is complete",
        ),
        (
            View(topics=[topic(read=None)], student=None, trouble=[], group="g"),
            "group g has committed nothing for t",
        ),
        (
            View(topics=[], student=StudentView(duplicates=12), trouble=[]),
            "dropped: 12 duplicate records",
        ),
        (
            View(topics=[], student=StudentView(zombies=3), trouble=[]),
            "3 records of zombie writers",
        ),
        (View(topics=[], student=StudentView(), trouble=[]), "dropped: nothing"),
        (
            View(topics=[], student=StudentView(checkpoint_s=61), trouble=[]),
            "last checkpoint 61 s ago",
        ),
    ],
)
def test_what_was_seen_is_put_into_words(view: View, said: str) -> None:
    assert any(said in line for _, line in verdicts(view)), verdicts(view)
    assert said in verdicts_of(view).plain


def test_the_screen_shows_looks_pauses_and_ends() -> None:
    looked: list[float] = []

    def look() -> View:
        looked.append(time.monotonic())
        return View(
            topics=[topic(end=10 + len(looked)), TopicView(topic="later")],
            student=StudentView(starved=0.5),
            trouble=[],
        )

    async def used() -> None:
        screen = WatchScreen(look, every_s=0.05, title="tutelage watch t")
        async with screen.run_test() as pilot:
            while len(looked) < 3:
                await pilot.pause(0.05)
            await pilot.press("p")
            await pilot.pause(0.2)
            paused = len(looked)
            await pilot.pause(0.3)
            assert len(looked) == paused
            await pilot.press("r")
            while len(looked) == paused:
                await pilot.pause(0.05)
            assert screen.sub_title == "paused" and screen.view is not None
            await pilot.press("q")
        assert screen.return_code == 0
        interrupted = WatchScreen(look, every_s=0.05, title="t")
        async with interrupted.run_test() as pilot:
            await pilot.press("ctrl+c")
        assert interrupted.return_code == 130

    asyncio.run(used())
    table = topics_of(look())
    assert table.row_count == 5


def commit_as(group: str, topic: str, kafka: dict[str, Any]) -> None:
    other = Consumer({"bootstrap.servers": kafka["bootstrap_servers"], "group.id": group})
    try:
        other.commit(offsets=[TopicPartition(topic, 0, 1)], asynchronous=False)
    finally:
        other.close()


def test_a_real_topic_and_its_reader_are_seen_as_they_are(
    environment: dict[str, str],
    topic_name: Callable[[str], str],
    tmp_path: Path,
    kafka: dict[str, Any],
) -> None:
    name = topic_name("seen")
    with watched_run(environment, name, tmp_path) as run:
        arguments = (
            "watch", name, "not-there", "--metrics", f"localhost:{run.student}", "--json", "--every", "1",
            "-b", kafka["bootstrap_servers"], "--registry", kafka["registry"],
        )  # fmt: skip
        unnamed = invoke(*arguments)
        result = invoke(*arguments, "--group", run.group)
        commit_as(f"{run.group}-2", name, kafka)
        several = invoke(*arguments)
    assert (result.code, unnamed.code, several.code) == (0, 0, 0), (
        result.err + unnamed.err + several.err
    )
    view = json.loads(result.out)
    assert json.loads(unnamed.out)["group"] == run.group, unnamed.out
    assert view["group"] == run.group
    found = json.loads(several.out)
    assert (found["group"], found["groups"]) == (None, [run.group, f"{run.group}-2"])
    assert any(f"{run.group}-2: --group NAME" in verdict["said"] for verdict in found["verdicts"])
    seen, missing = view["topics"]
    held = HELD_BATCHES * BATCH // RECORD
    assert (seen["teacher"], seen["rows_per_record"], missing["partitions"]) == (
        "watched",
        RECORD,
        [],
    )
    assert sum(part["end"] for part in seen["partitions"]) == ROWS // RECORD
    # Committed ten times a second at most: what was read in less than that is not all of it told.
    read = sum(part["read"] or 0 for part in seen["partitions"])
    assert 0 < read <= held
    assert f"behind: {ROWS // RECORD - read} records of {name} (group {run.group})" in [
        verdict["said"] for verdict in view["verdicts"]
    ]
    assert view["student"]["duplicates"] == 0 and view["student"]["checkpoint_s"] > 0


def test_a_browser_gets_the_screen(
    environment: dict[str, str], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    serving = subprocess.Popen(
        [TUTELAGE, "watch", topic_name("web"), "--web", "--web-port", str(port)],
        env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert serving.stderr is not None
        address = serving.stderr.readline().split()[1]
        assert address.startswith(f"http://127.0.0.1:{port}/?token=")
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(address, timeout=5) as answer:
                    page = answer.read().decode()
                break
            except OSError:
                assert serving.poll() is None and time.monotonic() < deadline, (
                    "the page never comes"
                )
                time.sleep(0.2)
    finally:
        serving.terminate()
        serving.communicate(timeout=30)
    assert "tutelage watch" in page and "textual" in page


def test_where_there_is_no_terminal_that_is_said() -> None:
    result = invoke("watch", "t", "-b", "127.0.0.1:1")
    assert (result.code, result.err) == (
        2,
        "error: watch needs a terminal, and standard output is not one; use --json\n",
    )
    assert invoke("watch", "no/topic", "--json").code == 2


def test_a_look_that_takes_long_is_the_only_one_under_way() -> None:
    at_once, most = [0], [0]

    def slow() -> View:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.4)
        at_once[0] -= 1
        return View(topics=[], student=None, trouble=[])

    async def used() -> None:
        screen = WatchScreen(slow, every_s=0.05, title="t")
        async with screen.run_test() as pilot:
            for _ in range(12):
                await pilot.press("r")
                await pilot.pause(0.1)
            await pilot.press("q")

    asyncio.run(used())
    assert most == [1]


def test_a_topic_that_cannot_be_read_does_not_hide_the_others(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    from confluent_kafka import Producer

    from tutelage.transport.connection import KafkaConnection
    from tutelage.transport.topic_admin import KafkaTopic

    foreign = topic_name("foreign")
    KafkaTopic(KafkaConnection(kafka["bootstrap_servers"]), foreign).create(1)
    producer = Producer({"bootstrap.servers": kafka["bootstrap_servers"]})
    producer.produce(foreign, b"no record of ours")
    assert producer.flush(20) == 0
    producer.close()
    flags = (
        "--json",
        "--every",
        "0.2",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    result = invoke("watch", foreign, "not-there", "--metrics", "127.0.0.1:1", *flags)
    assert result.code == 1, result.err
    said = [line["said"] for line in json.loads(result.out)["verdicts"]]
    assert any(foreign in line and "no Tutelage teacher wrote this" in line for line in said)
    assert any("no metrics at http://127.0.0.1:1" in line for line in said)
    assert any("topic not-there does not exist yet" in line for line in said)
