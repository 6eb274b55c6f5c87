"""Several files as one dataset: one behind the other, and merged as a student merges them."""

from __future__ import annotations

import pickle  # noqa: TID251 - copies of our own, to see that they can be made
from pathlib import Path
from typing import Any

import pytest
import torch
from support.row_files import assert_same, student_rows, write_file
from torch.utils.data import DataLoader

from tutelage import (
    ConfigurationError,
    DescriptionChanged,
    FileSink,
    Int8,
    KnowledgeFile,
    KnowledgeFiles,
    LengthMismatch,
    MergeError,
    Ragged,
    RunMismatch,
    Sampled,
    SampleMismatch,
    Teacher,
)
from tutelage.schemas.record import Description, KeySpec

TOKENS = Description(
    (
        KeySpec(key="x", dtype="int64", shape=()),
        KeySpec(key="tokens", dtype="int32", shape=(-1,)),
    )
)
STRATEGIES = ["sum", "mean", "weighted_mean:0.7,0.3", "max", "min", "stack", "concat", "first"]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Three files of 5, 9 and 1 rows, in records of different size."""
    found = [tmp_path / f"{name}.avro" for name in "abc"]
    for path, rows, size, codec in zip(
        found, (5, 9, 1), (2, 4, 3), ("null", "deflate", "null"), strict=True
    ):
        write_file(path, TOKENS, [rows], size, codec=codec, seed=rows)
    return found


def teach(path: Path, seed: int, rows: int = 11, size: int = 3, **options: Any) -> Path:
    """A teacher's logits, ragged states and sample ids."""
    torch.manual_seed(seed)
    with Teacher(FileSink(path), rows_per_record=size, **options) as teacher:
        lengths = torch.arange(rows) % 4 + 1
        teacher.write(
            {
                "id": torch.arange(rows),
                "logits": torch.randn(rows, 6),
                "states": Ragged(torch.randn(int(lengths.sum()), 2).numpy(), lengths.numpy()),
                f"own{seed}": torch.full((rows,), seed),
            }
        )
    return path


def test_rows_of_files_follow_each_other(paths: list[Path]) -> None:
    with KnowledgeFiles(paths) as files:
        assert len(files) == 15
        assert repr(files) == f"KnowledgeFiles({' + '.join(map(str, paths))}: 15 rows)"
        expected = [row for path in paths for row in student_rows(path)]
        for number, row in enumerate(expected):
            assert_same(files[[number]], row)
        order = [14, 0, 5, 4, 13, 5, 1]
        batch = files[order]
        assert batch["x"].tolist() == [int(expected[row]["x"]) for row in order]
        assert batch["tokens.lengths"].tolist() == [
            int(expected[row]["tokens.lengths"]) for row in order
        ]
        copy = pickle.loads(pickle.dumps(files))  # noqa: S301
        assert_same(copy[order], batch)
        copy.close()


def test_files_of_other_keys_are_refused_by_name(paths: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other.avro"
    write_file(other, Description((KeySpec(key="x", dtype="int32", shape=()),)), [3], 2)
    with pytest.raises(DescriptionChanged, match="other.avro holds 'x': int32.*a.avro holds"):
        KnowledgeFiles([paths[0], other])


@pytest.mark.parametrize("paths", ["a.avro", [], Path("a.avro"), None, 3], ids=repr)
def test_files_are_a_list(paths: Any) -> None:
    with pytest.raises(ConfigurationError, match="paths is .*; it must be a list"):
        KnowledgeFiles(paths)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_merged_rows_are_those_of_a_student(tmp_path: Path, strategy: str) -> None:
    paths = [teach(tmp_path / "a.avro", 1), teach(tmp_path / "b.avro", 2, size=5)]
    merge = {"logits": strategy, "states": "mean" if strategy == "concat" else strategy}
    if strategy == "stack":
        merge["states"] = "sum"
    with KnowledgeFiles.merged(paths, merge=merge, sample_id="id") as files:
        for size in (1, 4):
            batches = student_rows(*paths, batch_size=size, merge=merge, sample_id="id")
            for number, batch in enumerate(batches):
                assert_same(files[size * number : size * number + size], batch)
        assert files.description["own2"].dtype == "int64"


def doubled(tensors: list[torch.Tensor]) -> torch.Tensor:
    """A merge function."""
    return 2 * tensors[0] + tensors[1]


def test_a_merge_function_is_called_in_workers_too(tmp_path: Path) -> None:
    paths = [teach(tmp_path / "a.avro", 1), teach(tmp_path / "b.avro", 2)]
    merge: Any = {"logits": doubled, "states": "first"}
    batches = student_rows(*paths, batch_size=4, merge=merge, sample_id="id")
    with KnowledgeFiles.merged(paths, merge=merge, sample_id="id") as files:
        loader = DataLoader(files, batch_size=4, num_workers=1, multiprocessing_context="spawn")
        for found, batch in zip(loader, batches, strict=True):
            assert_same(found, batch)


@pytest.mark.parametrize("wire", [Sampled(8), Int8()], ids=str)
def test_encoded_keys_are_merged(tmp_path: Path, wire: Any) -> None:
    paths = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.avro")
        with Teacher(FileSink(paths[-1]), wire={"logits": wire}, rows_per_record=4) as teacher:
            teacher.write({"logits": torch.randn(10, 3, 50), "row": torch.arange(10)})
    options: Any = {"merge": {"logits": "mean"}, "sample_id": "row"}
    (whole,) = student_rows(*paths, batch_size=10, **options)
    with KnowledgeFiles.merged(paths, **options) as files:
        assert_same(files[:], whole)


def test_a_teacher_may_have_several_files(tmp_path: Path) -> None:
    a = [teach(tmp_path / "a1.avro", 1, rows=4), teach(tmp_path / "a2.avro", 1, rows=7)]
    b = [teach(tmp_path / "b1.avro", 2, rows=6), teach(tmp_path / "b2.avro", 2, rows=5)]
    merge = {"logits": "sum", "states": "first", "id": "stack"}
    with (
        KnowledgeFiles.merged([a, b], merge=merge) as files,
        KnowledgeFiles(a) as one,
        KnowledgeFiles(b) as other,
    ):
        assert len(files) == 11
        assert torch.equal(files[:]["logits"], one[:]["logits"] + other[:]["logits"])


def test_a_sample_that_differs_is_named(tmp_path: Path) -> None:
    for name, ids in (("a", [0, 1, 2, 3]), ("b", [0, 1, 2, 9])):
        with Teacher(FileSink(tmp_path / f"{name}.avro")) as teacher:
            teacher.write({"id": torch.tensor(ids)})
    paths = [tmp_path / "a.avro", tmp_path / "b.avro"]
    with KnowledgeFiles.merged(paths, sample_id="id") as files:
        assert files[[2, 0]]["id"].tolist() == [2, 0]
        with pytest.raises(SampleMismatch, match="row 3: 'id' is 3 of .* but 9 of"):
            files[[1, 3, 0]]


def test_teachers_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    paths = [teach(tmp_path / "a.avro", 1), teach(tmp_path / "b.avro", 2, rows=8)]
    merge = {"logits": "mean", "states": "first"}
    with pytest.raises(MergeError, match="say how to merge it"):
        KnowledgeFiles.merged(paths, sample_id="id", on_length_mismatch="truncate")
    with pytest.raises(LengthMismatch, match="a.avro has 11 rows, .*b.avro has 8 rows"):
        KnowledgeFiles.merged(paths, sample_id="id", merge=merge)
    options: Any = {"sample_id": "id", "merge": merge, "on_length_mismatch": "truncate"}
    with KnowledgeFiles.merged(paths, **options) as files:
        assert len(files) == 8
        assert_same(files[:], student_rows(*paths, batch_size=8, **options)[0])
    other = teach(tmp_path / "c.avro", 3, inputs_fingerprint="other")
    third = teach(tmp_path / "d.avro", 4, inputs_fingerprint="this")
    with pytest.raises(RunMismatch, match="the teachers read different inputs"):
        KnowledgeFiles.merged([other, third], sample_id="id", merge=merge)


def test_a_knowledge_file_is_one_file(tmp_path: Path) -> None:
    path = teach(tmp_path / "a.avro", 1)
    with KnowledgeFile(path) as one, KnowledgeFiles([path, path]) as twice:
        assert_same(twice[[0, 11]], one[[0, 0]])
