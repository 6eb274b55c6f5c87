"""The knowledge that the benchmarks move: the same for all sides, made before the clock starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Batches of one size.

    Args:
        name: The size, for titles.
        rows: Rows per batch.
        keys: Key -> shape of a row and dtype.
        at_most: The most batches that differ.
    """

    name: str
    rows: int
    keys: Mapping[str, tuple[tuple[int, ...], str]]
    at_most: int = 64

    @property
    def nbytes(self) -> int:
        """The bytes of a batch's tensors."""
        return sum(
            self.rows * math.prod(shape) * getattr(torch, dtype).itemsize
            for shape, dtype in self.keys.values()
        )

    def batch(self, seed: int) -> dict[str, torch.Tensor]:
        """Make the batch of a seed."""
        torch.manual_seed(seed)
        return {
            key: (torch.randn(self.rows, *shape) * 100).to(getattr(torch, dtype))
            for key, (shape, dtype) in self.keys.items()
        }

    @property
    def distinct(self) -> int:
        """How many batches differ: about 16 MB of them, but not more than `at_most`."""
        return max(2, min(self.at_most, (16 << 20) // self.nbytes))

    def batches(self) -> list[dict[str, torch.Tensor]]:
        """All batches that differ. They are sent repeatedly."""
        return [self.batch(seed) for seed in range(self.distinct)]


def dense(name: str, rows: int, width: int, dtype: str = "float32") -> Shape:
    """Batches of logits in one dtype and of labels."""
    return Shape(name=name, rows=rows, keys={"logits": ((width,), dtype), "label": ((), "int64")})


TOY = Shape(
    name="768 B",
    rows=32,
    keys={"x": ((1,), "int64"), "2x-1": ((1,), "int64"), "result": ((1,), "int64")},
)
KB64 = dense("64 KB", 64, 254)
KB256 = dense("256 KB", 64, 1022)
MB1 = dense("1 MB", 64, 4094)
MB8 = Shape(name="8 MB", rows=16, keys={"hidden": ((128, 2048), "float16")})
SIZES = (TOY, KB64, KB256, MB1, MB8)
DTYPES = (
    dense("256 KB of float16", 64, 2044, "float16"),
    dense("256 KB of bfloat16", 64, 2044, "bfloat16"),
    dense("256 KB of int64", 64, 511, "int64"),
)
