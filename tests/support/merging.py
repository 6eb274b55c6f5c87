"""Columns of several teachers, merged as a student would."""

from __future__ import annotations

from typing import Any

import torch

from tutelage.consumers.position import Position, ResumeIndex
from tutelage.consumers.stages.align import Aligned, Share
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.merge import Batch, Merge
from tutelage.schemas.record import Column, Description, KeySpec, Ragged


def aligned_of(columns: list[dict[str, Column]], rows: int, cut: int = 0) -> Aligned:
    """A share of each teacher; ragged columns in one piece, or in two where `cut` says so."""
    shares = []
    for teacher in columns:
        bounds = [(0, cut), (cut, rows)] if 0 < cut < rows else [(0, rows)]
        chunk = Chunk(
            rows=rows,
            resume=ResumeIndex(start=Position(), spans=()),
            dense={
                key: column for key, column in teacher.items() if not isinstance(column, Ragged)
            },
            ragged={
                key: [(start, column.rows(start, stop)) for start, stop in bounds]
                for key, column in teacher.items()
                if isinstance(column, Ragged)
            },
            reads=[],
        )
        shares.append(Share(chunk=chunk, start=0, rows=rows))
    return Aligned(first_row=100, rows=rows, shares=tuple(shares), global_rows=rows)


def merged(merge: Merge, aligned: Aligned) -> Batch:
    """All of the rows as one batch."""
    (batch,) = merge.batches(aligned, aligned.rows)
    return batch


def merge_of(
    strategy: Any, *arrays: Any, dtypes: list[str] | None = None, wire: str = "", **options: Any
) -> torch.Tensor:
    """Key k of teachers with these arrays, merged."""
    names = dtypes or [str(array.dtype) for array in arrays]
    descriptions = [
        Description((KeySpec(key="k", dtype=name, shape=array.shape[1:], wire=wire),))
        for name, array in zip(names, arrays, strict=True)
    ]
    merge = Merge(
        [f"t{index}" for index in range(len(arrays))], descriptions, {"k": strategy}, **options
    )
    batch = merged(merge, aligned_of([{"k": array} for array in arrays], len(arrays[0])))
    spec = merge.description["k"]
    assert (spec.dtype, spec.shape) == (
        str(batch["k"].dtype).removeprefix("torch."),
        tuple(batch["k"].shape[1:]),
    )
    values: torch.Tensor = batch["k"]
    return values
