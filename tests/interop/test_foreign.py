"""Writers and readers that know docs/format.md and nothing of Tutelage: each understands the other."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.commands import invoke
from support.jars import JARS

from interop.foreign_reader import read_topic
from interop.foreign_writer import KEYS, headers_of, schema_of, values_of, write_topic
from tutelage import KafkaSink, KafkaSource, RaggedFormat, Student, Teacher
from tutelage.deploy.local.programs import find_java, kafka_jars, maven_artifact
from tutelage.schemas.errors import CorruptData, UnsupportedSchema

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
Names = Callable[[str], str]
ROWS = 23


def expected(pass_index: int) -> dict[str, list[list[Any]]]:
    """What `values_of` makes of all rows, per key."""
    rows = [values_of(row, pass_index) for row in range(ROWS)]
    return {key: [row[index] for row in rows] for index, (key, *_) in enumerate(KEYS)}


def written_by_a_teacher(kafka: dict[str, Any], topic: str) -> None:
    """The same values, written by Tutelage."""
    with Teacher(
        KafkaSink(topic, partitions=3, **kafka),
        passes=2,
        rows_per_record=4,
        ragged_keys=["tokens"],
        wire={"log_its é": "float16"},
    ) as teacher:
        for pass_index in range(2):
            rows = [values_of(row, pass_index) for row in range(ROWS)]
            for part in (rows[:10], rows[10:]):
                teacher.write(
                    {
                        "2x-1": torch.tensor([number for (number,), _, _ in part]),
                        "log_its é": torch.tensor([logits for _, logits, _ in part]),
                        "tokens": [
                            torch.tensor(tokens, dtype=torch.int32) for _, _, tokens in part
                        ],
                    }
                )
            teacher.end_pass()


def test_a_student_reads_what_a_foreign_writer_wrote(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("foreign")
    write_topic(kafka["bootstrap_servers"], kafka["registry"], topic, ROWS)
    student = Student(timeout_s=30, ragged_format=RaggedFormat(padded=False))
    student.register_teacher(KafkaSource(topic, **kafka))
    with student:
        assert {key: spec.dtype for key, spec in student.description.items()} == {
            key: dtype for key, dtype, *_ in KEYS
        }
        for pass_index in range(2):
            batches, right = list(student.knowledge(5)), expected(pass_index)
            for key in ("2x-1", "log_its é"):
                rows = torch.cat([batch[key] for batch in batches]).reshape(ROWS, -1)
                assert rows.tolist() == right[key]
            assert [x for batch in batches for x in batch["tokens"].tolist()] == [
                x for row in right["tokens"] for x in row
            ]
    verified = invoke(
        "verify",
        f"topic:{topic}",
        "-b",
        kafka["bootstrap_servers"],
        "--registry",
        kafka["registry"],
    )
    assert verified.code == 0, verified
    assert "is whole" in verified.out
    assert f"{2 * ROWS} rows" in verified.out


def test_a_foreign_reader_reads_what_a_teacher_wrote(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("python")
    written_by_a_teacher(kafka, topic)
    assert read_topic(kafka["bootstrap_servers"], kafka["registry"], topic, 3) == [
        expected(0),
        expected(1),
    ]


def test_a_reader_in_java_reads_what_a_teacher_wrote(
    kafka: dict[str, Any], topic_name: Names
) -> None:
    topic = topic_name("java")
    written_by_a_teacher(kafka, topic)
    # Avro and Jackson lie in avro-tools, the Kafka client beside the broker.
    jars = [
        next(maven_artifact("org.apache.avro:avro-tools:1.12.2", "avro-tools", JARS).glob("*.jar"))
    ]
    for name in ("kafka-clients", "slf4j-api", "lz4-java", "snappy-java", "zstd-jni"):
        jars += kafka_jars().glob(f"{name}-*.jar")
    source = Path(__file__).parent / "Reader.java"
    command = [
        find_java(),
        "-cp",
        ":".join(map(str, jars)),
        str(source),
        kafka["bootstrap_servers"],
        kafka["registry"],
        topic,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["format"] for line in lines} == {2}
    for pass_index in range(2):
        records = sorted(
            (line for line in lines if line["pass"] == pass_index and not line["end"]),
            key=lambda line: line["sequence"],
        )
        assert [(line["sequence"], line["partition"]) for line in records] == [
            (number, number % 3) for number in range(6)
        ]
        assert {
            key: [row for line in records for row in line["keys"][key]]
            for key in records[0]["keys"]
        } == expected(pass_index)
        ends = [line for line in lines if line["pass"] == pass_index and line["end"]]
        assert [(line["end"], line["sequence"]) for line in ends] == [([6, ROWS], 6)] * 3
    assert np.float16(expected(0)["log_its é"][7][0]) == 1.75


def opened(kafka: dict[str, Any], topic: str) -> None:
    """Open a topic as a student does."""
    source = KafkaSource(topic, **kafka)
    try:
        source.open(20)
    finally:
        source.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"tutelage.teacher": b"somebody"},
            r"offset 0: header tutelage\.teacher is not JSON in UTF-8 \(b'somebody'\)",
        ),
        ({"tutelage.passes": b"\xff"}, r"header tutelage\.passes is not JSON in UTF-8"),
        ({"tutelage.passes": b'"2"'}, r"header tutelage\.passes is .*, not a JSON integer"),
        ({"tutelage.inputs": None}, r"header tutelage\.inputs is missing"),
        ({"tutelage.description": None}, r"header tutelage\.description is missing"),
    ],
    ids=str,
)
def test_a_foreign_writer_s_header_that_is_wrong_is_named(
    kafka: dict[str, Any], topic_name: Names, change: dict[str, bytes | None], words: str
) -> None:
    topic = topic_name("header")
    right = headers_of(f"run of {topic}", KEYS, partitions=1, rows_per_record=4, passes=1)
    headers = {name: value for name, value in {**right, **change}.items() if value is not None}
    write_topic(
        kafka["bootstrap_servers"],
        kafka["registry"],
        topic,
        4,
        partitions=1,
        passes=1,
        headers=headers,
    )
    with pytest.raises(
        CorruptData,
        match=f"topic {topic}, partition 0, {words}"
        if "offset" in words
        else f"topic {topic}.*{words}",
    ):
        opened(kafka, topic)


@pytest.mark.parametrize("missing", ["dtype", "wire", "shape", "key"])
def test_a_foreign_writer_s_field_without_a_property_is_named(
    kafka: dict[str, Any], topic_name: Names, missing: str
) -> None:
    topic = topic_name("field")
    schema = schema_of(KEYS)
    del schema["fields"][-2][missing]
    write_topic(
        kafka["bootstrap_servers"],
        kafka["registry"],
        topic,
        4,
        partitions=1,
        passes=1,
        schema=schema,
    )
    with pytest.raises(
        UnsupportedSchema,
        match=rf"field 'k_log__its_u20__ue9_'.*its property {missing} is (missing|None)",
    ) as told:
        opened(kafka, topic)
    assert "bytes were changed" not in str(told.value)
