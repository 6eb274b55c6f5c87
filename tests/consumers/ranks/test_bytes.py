"""The bytes that a broker sends to a student: its share of the stream once, and a record more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest
import torch

from tutelage import KafkaSink, KafkaSource, Student, Teacher
from tutelage.deploy.local import Stack

pytestmark = pytest.mark.kafka
#: Records as large as a batch of the producer: the worst case of cut batches, since a fetch of any
#: power of two lacks a few bytes to hold a whole number of them.
ROWS_PER_RECORD, WIDTH = 256, 1024
RECORD_BYTES = 4 * ROWS_PER_RECORD * WIDTH
PARTITIONS, RECORDS = 8, 128
#: Heads, headers, ends of passes, requests for metadata and offsets, and what the broker logs.
REST_BYTES = 256 << 10


@pytest.fixture(scope="module")
def written(request: pytest.FixtureRequest) -> str:
    """A topic of 8 partitions with 128 MB in records of 1 MB."""
    addresses = request.getfixturevalue("addresses")
    write(
        "share", {"bootstrap_servers": addresses.bootstrap_servers, "registry": addresses.registry}
    )
    return "share"


def write(topic: str, kafka: dict[str, Any], **options: Any) -> None:
    """Write the rows in order."""
    rows = torch.zeros(ROWS_PER_RECORD, WIDTH)
    with Teacher(
        KafkaSink(topic, partitions=PARTITIONS, **kafka), rows_per_record=ROWS_PER_RECORD, **options
    ) as teacher:
        for index in range(RECORDS):
            teacher.write({"x": rows + index})


@contextmanager
def sent(stack: Stack) -> Iterator[list[int]]:
    """Append the bytes that the broker sends and writes within the block."""
    broker, found = psutil.Process(stack.processes()["kafka-1"]), list[int]()
    before = broker.io_counters().write_chars
    yield found
    found.append(broker.io_counters().write_chars - before)


def read(topic: str, kafka: dict[str, Any], rank: int, world: int) -> None:
    """Read a rank's rows to the end of the pass."""
    student = Student(shard=(rank, world), timeout_s=60)
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        batches = student.knowledge(global_batch_size=8 * ROWS_PER_RECORD)
        given = [float(batch["x"][row, 0]) for batch in batches for row in (0, -1)]
    # Of a global batch of 8 records a rank has some that follow one another, or every W-th.
    assert len(given) == 2 * RECORDS // 8


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_rank_receives_its_share_of_a_topic_and_at_most_a_record_more(
    written: str, stack: Stack, kafka: dict[str, Any], world: int
) -> None:
    for rank in {0, 1 % world, world - 1}:
        with sent(stack) as received:
            read(written, kafka, rank, world)
        share = RECORDS * RECORD_BYTES // world
        assert share < received[0] <= share + RECORD_BYTES + REST_BYTES


def test_a_rank_receives_its_share_of_a_run_that_lies_behind_another(
    stack: Stack, kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic, world = topic_name("second"), 4
    for run in ("mon", "tue"):
        write(topic, kafka, run_id=run, new_run=run == "tue")
    with sent(stack) as received:
        read(topic, kafka, 1, world)
    share = RECORDS * RECORD_BYTES // world
    # Of the older run two records before the newer one's first are looked at in each partition,
    # and another may have been asked for meanwhile.
    before = 3 * RECORD_BYTES * PARTITIONS // world
    assert share < received[0] <= share + before + RECORD_BYTES + REST_BYTES
