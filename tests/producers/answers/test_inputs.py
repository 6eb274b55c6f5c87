"""Queries as a batch: the model gets what a student gets of the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tutelage import FileSink, FileSource, RaggedFormat, SchemaError, Student, Teacher
from tutelage.consumers.position import Position
from tutelage.on_policy.query_writer import row_ids
from tutelage.producers.answers.asked import Asked
from tutelage.producers.answers.inputs import check_plain, model_batch
from tutelage.producers.answers.query import PartitionOrder, Query
from tutelage.schemas.record import Description, KeySpec, Ragged, Record
from tutelage.schemas.topic import BEGINNING

ROWS: dict[str, Any] = {
    "x": torch.arange(24.0).view(6, 2, 2),
    "flag": torch.tensor([True, False, True, True, False, False]),
    "half": torch.arange(6).bfloat16(),
    "ids": [torch.arange(length) + 10 * length for length in (3, 1, 4, 1, 5, 2)],
}


def _queries(path: Path) -> tuple[list[Query], Description]:
    source = FileSource(path)
    try:
        info = source.open(10.0)
        queries = []
        for consumed in source.read(Position(offsets=(BEGINNING,))):
            if consumed is None:
                break
            record = consumed.loaded().record
            assert isinstance(record, Record)
            if record.head.end is not None:
                break
            queries.append(
                Query(
                    partition=0,
                    offset=consumed.offset,
                    head=record.head,
                    columns=record.columns,
                    nbytes=record.nbytes,
                    order=PartitionOrder(0, 1, (0, 0), 1),
                )
            )
        return queries, info.description
    finally:
        source.close()


@pytest.mark.parametrize("pad_left", [False, True])
def test_the_model_gets_what_a_student_gets(tmp_path: Path, pad_left: bool) -> None:
    path = tmp_path / "queries.avro"
    with Teacher(FileSink(path), rows_per_record=2, ragged_keys=["ids"]) as teacher:
        teacher.write(ROWS)
    queries, description = _queries(path)
    assert len(queries) == 3
    found = model_batch(
        [each.columns for each in queries], description, pad_value=7, pad_left=pad_left
    )
    student = Student(ragged_format=RaggedFormat(pad_value=7, pad_left=pad_left))
    student.register_teacher(FileSource(path))
    with student:
        (expected,) = student.knowledge(6)
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key
    part = model_batch(
        [each.columns for each in queries[1:]], description, pad_value=7, pad_left=pad_left
    )
    assert part["ids"].shape == (4, 5)
    assert torch.equal(part["x"], ROWS["x"][2:])


def test_rows_have_the_numbers_of_the_pass(tmp_path: Path) -> None:
    path = tmp_path / "queries.avro"
    with Teacher(FileSink(path), rows_per_record=2, ragged_keys=["ids"]) as teacher:
        teacher.write(ROWS)
    queries, _ = _queries(path)
    assert [Asked.of(queries[each], {}).numbers(2).tolist() for each in (2, 0)] == [[4, 5], [0, 1]]


def test_encoded_queries_are_refused_by_name() -> None:
    specs = (KeySpec(key="logits", dtype="float32", shape=(8,), wire="int8"),)
    with pytest.raises(SchemaError, match="topic q: key 'logits' is .*int8"):
        check_plain(Description(specs), "topic q")


def test_a_rows_id_stands_for_its_keys_shapes_and_values() -> None:
    rows = np.arange(12.0).reshape(3, 4)
    ids = row_ids({"x": rows, "y": np.arange(3)}, 3, "r")
    assert len(set(ids.tolist())) == 3
    assert ids.tolist() == row_ids({"y": np.arange(3), "x": rows}, 3, "r").tolist()
    assert not set(ids.tolist()) & set(row_ids({"x": rows, "y": np.arange(3)}, 3, "s").tolist())
    for other in (
        {"x": rows + 1, "y": np.arange(3)},
        {"x": rows.reshape(3, 2, 2), "y": np.arange(3)},
        {"x": rows, "z": np.arange(3)},
    ):
        assert not set(ids.tolist()) & set(row_ids(other, 3, "r").tolist())
    ragged = Ragged(np.arange(5), np.array([2, 0, 3]))
    assert row_ids({"x": ragged}, 3, "r")[2] == row_ids({"x": np.arange(2, 5)[None]}, 1, "r")[0]
