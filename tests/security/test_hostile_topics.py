"""Topics whose writer wants their reader to wait, to keep everything, to unpack gigabytes or to believe any number: on a broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import invoke
from support.hostile_files import claiming
from support.hostile_topics import Writer
from support.peak_memory import peak_growth
from support.streams import NUMBERS

from tutelage import KafkaSource, Student
from tutelage.schemas.errors import CorruptData, TopicIdentityError
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.topic_setup import TOPIC_SETTINGS, stored_as_sent

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(280)]
Names = Callable[[str], str]
MIB = 1 << 20

VERIFY = """
from tutelage import KafkaSource
source = KafkaSource({topic!r}, bootstrap_servers={bootstrap!r}, registry={registry!r}, options={options!r})
try:
    for record in in_order(source, source.open(20), timeout_s=6):
        del record
except TutelageError as error:
    print(type(error).__name__, error)
source.close()
"""


def verified(kafka: dict[str, Any], topic: str, folder: Path, **options: object) -> tuple[int, str]:
    """What reading all of a topic takes in memory, and what it ends with."""
    script = VERIFY.format(
        topic=topic,
        bootstrap=kafka["bootstrap_servers"],
        registry=kafka["registry"],
        options=options,
    )
    return peak_growth(script, folder)


def flags(kafka: dict[str, Any]) -> tuple[str, ...]:
    return ("-b", kafka["bootstrap_servers"], "--registry", kafka["registry"])


def test_a_partition_that_lacks_its_record_keeps_a_budget_of_the_others(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("hole")
    Writer(kafka, topic, width=4 * MIB).write(range(1, 220, 2), seed=1)
    growth, said = verified(kafka, topic, tmp_path)
    assert f"WaitTimeout waited 6 s for topic {topic}, partition 0, record 0 of pass 0" in said
    # 440 MiB lie there. The order's budget, the client's queue, and what was fetched when either was full.
    assert growth < 330 * MIB


def test_one_batch_at_a_time_bounds_what_is_unpacked(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("zeros")
    Writer(kafka, topic, width=4 * MIB, compression="zstd").write(range(1, 300, 2))
    growth, said = verified(kafka, topic, tmp_path, **{"fetch.message.max.bytes": 1})
    assert "WaitTimeout" in said
    # 600 MiB of zeros in 60 KB.
    assert growth < 330 * MIB


def test_a_batch_that_unpacks_to_more_than_a_fetch_may_have_is_refused_with_what_to_do(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    topic = topic_name("bomb")
    assert Writer(kafka, topic, width=300 * MIB, partitions=1, compression="zstd").write([0]) == 1
    growth, said = verified(kafka, topic, tmp_path)
    assert said.startswith(f"CorruptData topic {topic}, partition 0, offset 0: ")
    assert "receive.message.max.bytes" in said
    assert growth < 330 * MIB


def test_topics_that_teachers_make_hold_no_compressed_batches_unless_the_teacher_compresses(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    settings = {"compression.type": TOPIC_SETTINGS["compression.type"]}
    bomb = Writer(
        kafka,
        topic_name("bomb"),
        width=300 * MIB,
        partitions=1,
        compression="zstd",
        settings=settings,
    )
    assert bomb.write([0]) == 0, "the broker takes what unpacks to more than max.message.bytes"
    topic = topic_name("zeros")
    assert (
        Writer(kafka, topic, width=4 * MIB, compression="zstd", settings=settings).write(
            range(1, 200, 2)
        )
        == 100
    )
    growth, _ = verified(kafka, topic, tmp_path)
    assert growth < 330 * MIB
    assert stored_as_sent({}) == stored_as_sent({"compression.codec": "none"}) == {}
    assert stored_as_sent({"compression.type": "zstd"}) == {"compression.type": "producer"}


def test_duplicates_that_never_end_do_not_prolong_a_verification(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic, enough = topic_name("flood"), threading.Event()
    writer = Writer(kafka, topic, width=10)
    writer.write(range(3))

    def flood() -> None:
        while not enough.is_set():
            writer.write([1] * 20)

    thread = threading.Thread(target=flood)
    thread.start()
    threading.Timer(60, enough.set).start()
    try:
        result = invoke("verify", topic, "--timeout", "3", *flags(kafka))
        assert (result.code, "record 3 of pass 0" in result.err) == (6, True), result.err
        assert not enough.is_set(), "it lasted as long as duplicates came"
    finally:
        enough.set()
        thread.join()


@pytest.mark.parametrize(
    ("partitions", "kind"), [(2_000_000, CorruptData), (5000, TopicIdentityError)]
)
def test_more_partitions_than_the_topic_has_are_asked_of_no_broker(
    kafka: dict[str, Any], topic_name: Names, partitions: int, kind: type[Exception]
) -> None:
    topic = topic_name("claims")
    Writer(kafka, topic, width=1).claim(partitions=partitions).write([0, 1])
    student = Student(timeout_s=10)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student, pytest.raises(kind, match=str(partitions)):
        next(student.knowledge(1))
    for command in ("inspect", "verify"):
        result = invoke(command, topic, "--timeout", "10", *flags(kafka))
        assert (result.code, str(partitions) in result.err) == (5, True), result.err


def test_a_replay_makes_no_topic_of_thousands_of_partitions_by_itself(
    kafka: dict[str, Any], topic_name: Names, tmp_path: Path
) -> None:
    path, topic = claiming(tmp_path / "a.avro", NUMBERS, partitions=5000), topic_name("replayed")
    result = invoke("replay", str(path), topic, *flags(kafka))
    assert (result.code, "--yes" in result.err) == (2, True), result.err
    assert KafkaTopic(KafkaConnection(**kafka), topic).partitions() == 0


def test_a_newer_run_begun_beyond_time_does_not_hide_the_one_that_is_there(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("time")
    writer = Writer(kafka, topic, width=1, partitions=1)
    writer.write([0])
    writer.claim(run_id="forged", created=1e300).write([0])
    result = invoke("inspect", topic, "--json", "--timeout", "10", *flags(kafka))
    assert [run["run_id"] for run in json.loads(result.out)["runs"]] == [topic], result.err
