"""A knowledge file in torch's DataLoader: with its samplers, in forked and spawned workers, in wrappers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.row_files import assert_same, write_file
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
)

from tutelage import FileSink, KnowledgeFile, KnowledgeFiles, RaggedFormat, Sampled, Teacher
from tutelage.schemas.record import Description, KeySpec

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork.*:DeprecationWarning", "ignore:This DataLoader will create"
)
ROWS = 23
TOKENS = Description(
    (
        KeySpec(key="x", dtype="int64", shape=()),
        KeySpec(key="tokens", dtype="int32", shape=(-1,)),
    )
)
WORKERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2, "multiprocessing_context": "fork"},
    {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
    {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    """A file of 23 rows in records of four."""
    write_file(tmp_path / "a.avro", TOKENS, [ROWS], 4)
    with KnowledgeFile(tmp_path / "a.avro") as opened:
        yield opened


def shuffled() -> torch.Generator:
    """The generator of a shuffle."""
    return torch.Generator().manual_seed(5)


@pytest.mark.parametrize("workers", WORKERS, ids=str)
def test_a_shuffled_loader_gives_each_row_once_an_epoch(
    file: KnowledgeFile, workers: dict[str, Any]
) -> None:
    place = {int(row["x"]): number for number, row in enumerate(file)}
    loader = DataLoader(file, batch_size=5, shuffle=True, generator=shuffled(), **workers)
    epochs = []
    for _ in range(2):
        batches = list(loader)
        assert [len(batch["x"]) for batch in batches] == [5, 5, 5, 5, 3]
        epochs.append([place[int(x)] for batch in batches for x in batch["x"]])
        for number, batch in enumerate(batches):
            assert type(batch) is dict
            assert_same(batch, file[epochs[-1][5 * number : 5 * number + 5]])
    assert epochs[0] != epochs[1]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(ROWS))


def test_a_random_sampler_with_replacement_may_give_more_rows_than_there_are(
    file: KnowledgeFile,
) -> None:
    order = list(RandomSampler(file, replacement=True, num_samples=60, generator=shuffled()))
    sampler = RandomSampler(file, replacement=True, num_samples=60, generator=shuffled())
    (batch,) = DataLoader(file, batch_size=60, sampler=sampler)
    assert_same(batch, file[order])


@pytest.mark.parametrize("workers", WORKERS[:2], ids=str)
def test_a_batch_sampler_gives_batches_without_collation(
    file: KnowledgeFile, workers: dict[str, Any]
) -> None:
    sampler = BatchSampler(SequentialSampler(file), 6, drop_last=True)
    batches = list(DataLoader(file, sampler=sampler, batch_size=None, **workers))
    assert len(batches) == 3
    for number, batch in enumerate(batches):
        assert_same(batch, file[6 * number : 6 * number + 6])
    as_batch_sampler = list(DataLoader(file, batch_sampler=sampler, **workers))
    assert_same(as_batch_sampler[2], batches[2])


def test_a_distributed_sampler_divides_the_rows_between_ranks(file: KnowledgeFile) -> None:
    seen: list[int] = []
    for rank in range(3):
        sampler: Sampler[int] = DistributedSampler(file, 3, rank, shuffle=True, drop_last=True)
        for batch in DataLoader(file, batch_size=4, sampler=sampler):
            seen += batch["x"].tolist()
    assert len(seen) == len(set(seen)) == 21
    assert set(seen) <= set(file[:]["x"].tolist())


def test_rows_are_given_one_by_one_without_batches(file: KnowledgeFile) -> None:
    for number, row in enumerate(DataLoader(file, batch_size=None)):
        assert_same(dict(row), dict(file[number]))


def test_a_collate_function_of_ones_own_gets_rows(file: KnowledgeFile) -> None:
    loader = DataLoader(
        file, batch_size=4, collate_fn=lambda rows: [row["tokens"].tolist() for row in rows]
    )
    found = [tokens for batch in loader for tokens in batch]
    assert found == [row["tokens"].tolist() for row in file]


@pytest.mark.parametrize(
    "ragged", [RaggedFormat(), RaggedFormat(pad_left=True, pad_value=7), RaggedFormat(padded=False)]
)
def test_wrappers_of_torch_give_the_same_batches(tmp_path: Path, ragged: RaggedFormat) -> None:
    for name in "ab":
        write_file(tmp_path / f"{name}.avro", TOKENS, [9], 4, seed=ord(name))
    paths = [tmp_path / "a.avro", tmp_path / "b.avro"]
    with KnowledgeFiles(paths, ragged_format=ragged) as both:
        parts = [KnowledgeFile(path, ragged_format=ragged) for path in paths]
        order = [17, 3, 9, 3, 0, 12, 8, 16]
        (batch,) = DataLoader(Subset(both, order), batch_size=8)
        assert_same(batch, both[order])
        (batch,) = DataLoader(Subset(ConcatDataset(parts), order), batch_size=8)
        assert_same(batch, both[order])
        for part in parts:
            part.close()


def test_encoded_keys_come_from_workers(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    torch.manual_seed(0)
    with Teacher(FileSink(path), wire={"logits": Sampled(8)}, rows_per_record=4) as teacher:
        teacher.write({"logits": torch.randn(10, 3, 200), "x": torch.arange(10)})
    with KnowledgeFile(path) as file:
        loader = DataLoader(file, batch_size=4, num_workers=1, multiprocessing_context="fork")
        for number, batch in enumerate(loader):
            assert_same(batch, file[4 * number : 4 * number + 4])


def test_a_record_that_workers_verified_is_not_verified_again(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    write_file(path, TOKENS, [ROWS], 4)
    with KnowledgeFile(path) as file:
        loader = DataLoader(file, batch_size=5, num_workers=2, multiprocessing_context="fork")
        expected = [batch["x"].tolist() for batch in loader]
        raw = path.read_bytes()
        x = file[[6]]["x"].numpy().tobytes()
        at = raw.index(x)
        with path.open("r+b") as changed:
            changed.seek(at)
            changed.write(bytes(8))
        found = [batch["x"].tolist() for batch in loader]
    assert found[1][1] == 0
    found[1][1] = expected[1][1]
    assert found == expected
