"""A SparseTarget moves, is cut, joined and compiled like a tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.encoded import POSITIONS, VOCABULARY, logits_of, same, target_of, topic_of
from torch.utils.data import default_collate

from tutelage import SparseTarget
from tutelage.schemas.errors import ConfigurationError

TARGETS = {wire: target_of([topic_of(logits_of(7), wire)]) for wire in ("sampled:25", "topk:12")}
WIRES = pytest.mark.parametrize("wire", list(TARGETS))


@WIRES
def test_it_reads_like_what_it_is(wire: str) -> None:
    target = TARGETS[wire]
    kind = "25 draws" if wire.startswith("sampled") else "top-k"
    assert repr(target).startswith(f"SparseTarget({kind}, 7 rows, {7 * POSITIONS} positions, ")
    assert repr(target).endswith(f"entries each, vocabulary {VOCABULARY})")
    assert (len(target), target.positions, target.shape) == (7, 7 * POSITIONS, (POSITIONS,))


@given(st.integers(-9, 9), st.integers(-9, 9), st.sampled_from(list(TARGETS)))
def test_slices_of_rows_are_what_slices_of_the_dense_tensor_are(
    start: int, stop: int, wire: str
) -> None:
    target = TARGETS[wire]
    dense = target.dense().reshape(7, POSITIONS, -1)
    part = target[start:stop]
    assert torch.equal(part.dense().reshape(-1, POSITIONS, VOCABULARY), dense[start:stop])


@WIRES
def test_rows_are_cut_and_joined_without_a_change(wire: str) -> None:
    target = TARGETS[wire]
    assert same(SparseTarget.cat(list(target)), target)
    assert same(default_collate([target[:3], target[3:]]), target)
    assert same(target[-1], target[6])
    for index in (7, -8):
        with pytest.raises(IndexError):
            target[index]
    with pytest.raises(IndexError, match="step 1"):
        target[::2]


def test_targets_of_another_kind_are_not_joined() -> None:
    sampled, top = TARGETS.values()
    for other in (top, replace(sampled, draws=26), replace(sampled, temperature=2.0)):
        with pytest.raises(ConfigurationError, match="cannot be concatenated"):
            SparseTarget.cat([sampled, other])
    with pytest.raises(ConfigurationError, match="no targets"):
        SparseTarget.cat([])


@WIRES
def test_its_entries_as_numbers(wire: str) -> None:
    target = TARGETS[wire]
    rows = target.tolist()
    assert [len(row) for row in rows] == target.lengths.tolist()
    ids = [id_ for row in rows for position in row for id_, _ in position]
    assert ids == target.ids.tolist()


@WIRES
def test_it_moves_to_devices_and_keeps_its_dtypes(wire: str) -> None:
    target = TARGETS[wire]
    there = target.to("meta")
    assert {each.device.type for each in there.tensors().values()} == {"meta"}
    same_dtypes = {name: each.dtype for name, each in target.to(torch.float16).tensors().items()}
    assert same_dtypes == {name: each.dtype for name, each in target.tensors().items()}


@WIRES
def test_it_is_compiled_with_any_number_of_entries(wire: str) -> None:
    @torch.compile(backend="eager", fullgraph=True, dynamic=True)
    def picked(logits: torch.Tensor, target: SparseTarget) -> torch.Tensor:
        return (target.probabilities() * logits[target.owners(), target.ids.long()]).sum()

    for rows in (7, 4):
        target = TARGETS[wire][:rows]
        logits = logits_of(rows).reshape(-1, VOCABULARY)
        assert torch.allclose(picked(logits, target), (target.dense() * logits).sum(), rtol=1e-4)


@pytest.mark.gpu
def test_it_moves_to_a_gpu_from_pinned_memory() -> None:
    for target in TARGETS.values():
        pinned = target.pin_memory()
        assert all(each.is_pinned() for each in pinned.tensors().values())
        there = pinned.to("cuda", non_blocking=True)
        assert there.device.type == "cuda"
        assert same(there.to("cpu"), target)
        assert torch.allclose(there.dense().cpu(), target.dense())
