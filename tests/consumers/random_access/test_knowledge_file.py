"""Any row of a file: the bits that a student gets, whatever the file holds and however rows are asked for."""

from __future__ import annotations

import pickle  # noqa: TID251 - copies of our own, to see that they can be made
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.knowledge import descriptions
from support.row_files import assert_same, student_rows, write_file

from tutelage import (
    BatchTooLarge,
    ConfigurationError,
    FileSink,
    Int8,
    KnowledgeFile,
    Limits,
    Ragged,
    RaggedFormat,
    Sampled,
    SparseTarget,
    Teacher,
    TopK,
)
from tutelage.schemas.container_format import CODECS
from tutelage.schemas.record import Description, KeySpec

FORMATS = [
    RaggedFormat(),
    RaggedFormat(pad_left=True),
    RaggedFormat(padded=False),
]
MIXED = Description(
    (
        KeySpec(key="x", dtype="int64", shape=()),
        KeySpec(key="half", dtype="float32", shape=(2, 3), wire="float16"),
        KeySpec(key="tokens", dtype="int32", shape=(-1,)),
        KeySpec(key="states", dtype="bfloat16", shape=(-1, 2)),
    )
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of two passes over 20 and 7 rows, in records of three."""
    write_file(tmp_path / "a.avro", MIXED, [20, 7], 3)
    return tmp_path / "a.avro"


@given(
    description=descriptions(max_keys=3),
    passes=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    size=st.sampled_from([1, 2, 3, 5, 16]),
    codec=st.sampled_from(CODECS),
    ragged=st.sampled_from(FORMATS),
    seed=st.integers(0, 999),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_rows_and_batches_are_those_of_a_student(
    tmp_path_factory: pytest.TempPathFactory,
    description: Description,
    passes: list[int],
    size: int,
    codec: str,
    ragged: RaggedFormat,
    seed: int,
    data: st.DataObject,
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.avro"
    write_file(path, description, passes, size, codec=codec, seed=seed)
    pass_index = data.draw(st.integers(0, len(passes) - 1))
    batch_size = data.draw(st.integers(1, 6))
    rows = passes[pass_index]
    with KnowledgeFile(path, pass_index=pass_index, ragged_format=ragged) as file:
        assert len(file) == rows == file.rows(pass_index)
        assert file.passes == len(passes)
        singles = student_rows(path, pass_index=pass_index, ragged_format=ragged)
        order = data.draw(st.permutations(range(rows)))
        for row in order:
            assert_same(file[[row]], singles[row])
        batches = student_rows(
            path, pass_index=pass_index, batch_size=batch_size, ragged_format=ragged
        )
        for number, batch in enumerate(batches):
            first = number * batch_size
            wanted = list(range(first, min(rows, first + batch_size)))
            assert_same(file[wanted], batch)
            assert_same(file[first : first + batch_size], batch)


def test_a_row_has_no_dimension_of_rows_and_no_padding(path: Path) -> None:
    singles = student_rows(path)
    for ragged in FORMATS:
        with KnowledgeFile(path, ragged_format=ragged) as file:
            for batch in (file.__getitems__([4, 11, 0]), [file[4], file[11], file[0]]):
                for row, number in zip(batch, (4, 11, 0), strict=True):
                    expected = {key: value[0] for key, value in singles[number].items()}
                    assert_same(dict(row), expected)


@pytest.mark.parametrize(
    "index",
    [
        [2, 0, 2, 19],
        (2, 0, 2, -1),
        [-18, -20, -18, -1],
        np.array([2, 0, 2, 19]),
        torch.tensor([2, 0, 2, 19]),
        [np.int64(2), torch.tensor(0), 2, 19],
    ],
    ids=str,
)
def test_rows_are_asked_for_in_any_order_repeated_and_from_the_end(path: Path, index: Any) -> None:
    with KnowledgeFile(path) as file:
        x = torch.stack([file[number]["x"] for number in range(20)])
        assert file[index]["x"].equal(x[[2, 0, 2, 19]])
        assert file[::-1]["x"].equal(x.flip(0))
        assert [row["x"] for row in file] == x.tolist()


def test_a_row_that_is_not_there_is_an_error_that_names_the_range(path: Path) -> None:
    with KnowledgeFile(path, pass_index=1) as file:
        for index in (7, -8, [0, 7], torch.tensor([-8])):
            with pytest.raises(IndexError, match="from 0 to 6, or from -7 to -1 from the end"):
                file[index]


@pytest.mark.parametrize("index", ["0", 1.0, True, None, [0.5], {0: 1}, b"0"], ids=repr)
def test_what_is_no_index_is_an_error(path: Path, index: Any) -> None:
    with (
        KnowledgeFile(path) as file,
        pytest.raises(ConfigurationError, match="whole number, a slice, or a list"),
    ):
        file[index]


def test_no_rows_are_an_error(path: Path) -> None:
    with KnowledgeFile(path) as file:
        nothing: list[Any] = [[], slice(3, 3), np.array([], int)]
        for index in nothing:
            with pytest.raises(ConfigurationError, match="no row was asked for"):
                file[index]


def test_a_pass_that_is_not_there_is_an_error_that_names_the_range(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="pass_index is from 0 to 1; 2 was asked for"):
        KnowledgeFile(path, pass_index=2)
    with KnowledgeFile(path) as file, pytest.raises(ConfigurationError, match="from 0 to 1"):
        file.rows(2)


@pytest.mark.parametrize(
    "options",
    [{"pass_index": -1}, {"verify": 1}, {"keep_index": None}, {"ragged_format": 0}, {"limits": 0}],
    ids=str,
)
def test_a_wrong_argument_is_an_error_at_the_call(path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        KnowledgeFile(path, **options)


@pytest.mark.parametrize("wire", [Sampled(8), TopK(4), Int8()], ids=str)
@pytest.mark.parametrize("codec", ["null", "zstandard"])
@pytest.mark.parametrize("shape", ["fixed", "ragged"])
def test_encoded_keys_are_those_of_a_student(
    tmp_path: Path, wire: Any, codec: Any, shape: str
) -> None:
    path = tmp_path / "a.avro"
    torch.manual_seed(0)
    with Teacher(FileSink(path, codec=codec), wire={"logits": wire}, rows_per_record=4) as teacher:
        for first in range(0, 12, 6):
            lengths = torch.tensor([1, 3, 2, 5, 4, 2])
            logits = torch.randn(17, 300) if shape == "ragged" else torch.randn(6, 5, 300)
            value = Ragged(logits.numpy(), lengths.numpy()) if shape == "ragged" else logits
            teacher.write({"logits": value, "x": torch.arange(first, first + 6)})
    with KnowledgeFile(path) as file:
        for row, single in enumerate(student_rows(path)):
            assert_same(file[[row]], single)
        (whole,) = student_rows(path, batch_size=12)
        assert_same(file[list(range(12))], whole)
        if not isinstance(wire, Int8):
            target = file[[7, 2]]["logits"]
            assert isinstance(target, SparseTarget) and len(target) == 2
            assert_same(target, SparseTarget.cat([file[7]["logits"], file[2]["logits"]]))
            assert_same(file.__getitems__([7, 2])[1]["logits"], file[2]["logits"])


def test_batches_share_no_memory(path: Path) -> None:
    with KnowledgeFile(path) as file:
        first, second = file[[3, 4]], file[[3, 4]]
        first["x"].zero_()
        assert second["x"].equal(file[[3, 4]]["x"]) and second["x"].any()


def test_a_batch_over_the_limit_is_refused(path: Path) -> None:
    dense = Limits(batch_bytes=200)
    with KnowledgeFile(path, limits=dense) as file:
        file[[0]]
        with pytest.raises(BatchTooLarge, match="the limit batch_bytes is 200"):
            file[:]
    with (
        KnowledgeFile(path, limits=Limits(batch_bytes=700)) as file,
        pytest.raises(BatchTooLarge, match="batch_bytes is 700"),
    ):
        file[:]


def test_a_closed_file_is_an_error_and_closing_twice_is_none(path: Path) -> None:
    file = KnowledgeFile(path)
    with file:
        file[0]
    file.close()
    with pytest.raises(ConfigurationError, match="was closed; open it again"):
        file[0]


def test_a_pickled_copy_opens_the_file_itself(path: Path) -> None:
    with KnowledgeFile(path) as file:
        copy = pickle.loads(pickle.dumps(file))  # noqa: S301
        expected = file[[5, 1]]
    with copy:
        assert_same(copy[[5, 1]], expected)
        assert repr(copy) == repr(file) == f"KnowledgeFile('{path}', pass 0: 20 rows)"


def test_no_descriptor_is_left_open(path: Path) -> None:
    def descriptors() -> int:
        return sum(str(each.resolve()) == str(path) for each in Path("/proc/self/fd").iterdir())

    with KnowledgeFile(path) as file:
        file[0]
        assert descriptors() == 1
    assert descriptors() == 0
    file = KnowledgeFile(path)
    del file
    assert descriptors() == 0
    with pytest.raises(ConfigurationError):
        KnowledgeFile(path, pass_index=9)
    assert descriptors() == 0


def test_threads_may_share_a_file(path: Path) -> None:
    with KnowledgeFile(path) as file:
        expected = file[:]
        found: list[bool] = []

        def read() -> None:
            for _ in range(30):
                batch = file[:]
                found.append(all(batch[key].equal(expected[key]) for key in ("x", "tokens")))

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [True] * 120
