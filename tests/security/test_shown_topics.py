"""Topics that a hostile teacher wrote: shown harmlessly by every command, and `watch` believes the topic, not what its records claim."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from support.commands import invoke
from support.hostile import BAD, assert_harmless

from tutelage import KafkaSink, Teacher
from tutelage.tools.watch import Watcher
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic

pytestmark = pytest.mark.kafka
BAD_RUN = f"run{BAD}"


def taught(
    topic: str, kafka: dict[str, Any], *, run_id: str = BAD_RUN, new_run: bool = False
) -> None:
    """A pass whose every text is hostile."""
    sink = KafkaSink(topic, partitions=1, **kafka)
    settings: dict[str, Any] = {
        "revision": BAD,
        "inputs_fingerprint": BAD,
        "run_id": run_id,
        "new_run": new_run,
    }
    with Teacher(sink, name=f"teacher{BAD}", rows_per_record=4, **settings) as teacher:
        teacher.write({BAD: torch.arange(8), f"[/]{BAD}": torch.arange(8)})


def copied(source: str, target: str, kafka: dict[str, Any], **headers: Any) -> None:
    """The messages of a topic of one partition in another one, with these headers."""
    servers = kafka["bootstrap_servers"]
    KafkaTopic(KafkaConnection(servers), target).create(1)
    consumer = Consumer(
        {"bootstrap.servers": servers, "group.id": "copy", "enable.partition.eof": True}
    )
    producer = Producer({"bootstrap.servers": servers})
    try:
        consumer.assign([TopicPartition(source, 0, 0)])
        while (message := consumer.poll(30)) is not None and message.error() is None:
            changed = dict(message.headers() or ()) | {
                f"tutelage.{name}": json.dumps(one) for name, one in headers.items()
            }
            producer.produce(target, value=message.value(), headers=list(changed.items()))
        assert message is not None and producer.flush(30) == 0
    finally:
        consumer.close()
        producer.close()


def test_no_command_shows_a_hostile_topic_as_it_is(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    first, topic = topic_name("hostile"), topic_name("hostile")
    taught(first, kafka)
    copied(first, topic, kafka, version=BAD)
    taught(topic, kafka, run_id=f"newer{BAD}", new_run=True)
    flags = ("-b", kafka["bootstrap_servers"], "--registry", kafka["registry"])
    out = str(tmp_path / "a.avro")
    for command in (
        ("inspect", topic), ("inspect", topic, "--json"), ("inspect", topic, "--run", BAD_RUN), ("verify", topic),
        ("verify", topic, "--json"), ("learn", topic), ("learn", topic, "--rows", "2"), ("record", topic, out),
        ("record", topic, out), ("replay", out, topic_name("again")), ("watch", topic, "--json", "--every", "0.2"),
        ("teach", "tutelage.examples.toy.lessons:teacher1", "--topic", topic), ("verify", topic, "--run", f"no{BAD}", "--timeout", "1"),
        ("learn", topic, first), ("learn", topic, "--run", f"no{BAD}", "--timeout", "1"),
    ):  # fmt: skip
        result = invoke(*command, *flags)
        assert result.out or result.err, command
        assert_harmless(result.out + result.err)
        if "--json" in command:
            json.loads(result.out)


def test_watch_shows_a_topic_that_was_made_anew_with_fewer_partitions(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic = topic_name("anew")
    connection = KafkaConnection(kafka["bootstrap_servers"])
    with Teacher(KafkaSink(topic, partitions=3, **kafka)) as teacher:
        teacher.write({"x": torch.arange(8)})
    watcher = Watcher(KafkaConnection(**kafka), [topic], group=None, metrics=())
    try:
        assert len(watcher.look().topics[0].partitions) == 3
        admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
        admin.delete_topics([topic])[topic].result(20)
        asked = KafkaTopic(connection, topic)
        deadline = time.monotonic() + 60
        while asked.partitions():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        asked.create(1)
        taught(topic, kafka)
        view = watcher.look()
    finally:
        watcher.close()
    assert [part.end for part in view.topics[0].partitions] == [3]
    assert view.topics[0].teacher == f"teacher{BAD}" and not view.trouble


@pytest.mark.parametrize("claimed", [3, 2_000_000, 2**31])
def test_watch_shows_the_partitions_that_a_topic_has(
    claimed: int, kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    first, topic = topic_name("few"), topic_name("claimed")
    taught(first, kafka)
    copied(first, topic, kafka, partitions=claimed)
    result = invoke(
        "watch",
        topic,
        "--json",
        "--every",
        "0.2",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    assert result.code == 1
    view = json.loads(result.out)
    assert [part["end"] for part in view["topics"][0]["partitions"]] == [3]
    bad = [verdict["said"] for verdict in view["verdicts"] if verdict["how"] == "bad"]
    assert len(bad) == 1 and topic in bad[0] and f"{claimed}" in bad[0].replace(",", "")
    assert not any("does not exist yet" in verdict["said"] for verdict in view["verdicts"])
