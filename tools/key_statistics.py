"""What the values of a key are like: range, mean, share of NaN, histogram. Arrays in, numbers out; no I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.schemas.record import Array, Column, Ragged

BINS = 16
_LARGEST = sys.float_info.max
_KEPT, _KEPT_OF_A_RECORD = 1 << 20, 4096
_FLOAT32_BYTES = 4
# Values this near, by their size, cannot be told apart by so many edges.
_TOO_NEAR = 1e-12
_BLOCKS, _PLAIN_BLOCKS = " ▁▂▃▄▅▆▇█", " .,:-=+*#"


@dataclass(kw_only=True, slots=True)
class KeyStatistics:
    """One key's values so far. Complex numbers count by their magnitude, bools as 0 and 1; NaN and infinities only by their share.

    The histogram is of some values of each record, evenly chosen, a million at most.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    lengths: list[int] = field(default_factory=list)
    _kept: list[Array] = field(default_factory=list)
    _kept_count: int = 0

    def add(self, column: Column) -> None:
        """Take values in."""
        if isinstance(column, Ragged):
            if len(column.lengths):
                shortest, longest = int(column.lengths.min()), int(column.lengths.max())
                self.lengths = [
                    min([shortest, *self.lengths[:1]]),
                    max([longest, *self.lengths[1:]]),
                ]
            column = column.values
        values = _numbers(column)
        finite = values
        whole = np.isfinite(values)
        if not whole.all():
            finite = values[whole]
            nan = int(np.isnan(values).sum())
            self.nan += nan
            self.infinite += values.size - finite.size - nan
        self.count += values.size
        if not finite.size:
            return
        low, high = float(finite.min()), float(finite.max())
        self.low = low if self.low is None else min(self.low, low)
        self.high = high if self.high is None else max(self.high, high)
        known = self.count - self.nan - self.infinite
        mean = _mean(finite)
        # Step by step, because the sum of the largest numbers is none.
        share = finite.size / known
        self.mean = mean if self.mean is None else self.mean * (1 - share) + mean * share
        # A copy: a view would keep the whole record.
        some = finite[:: max(1, finite.size // _KEPT_OF_A_RECORD)].copy()
        self._kept.append(some)
        self._kept_count += some.size
        if self._kept_count > _KEPT:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._kept_count = self._kept[0].size

    def histogram(self) -> tuple[Array, Array]:
        """Counts [BINS] and edges [BINS + 1], from the lowest to the highest value."""
        low, high = self.low or 0.0, self.high or 0.0
        if high - low <= abs(low) * _TOO_NEAR:
            # One value only, or as good as: it has the first bin.
            low, high = (
                (low, low + max(1.0, abs(low))) if low < 0 or low < _LARGEST / 2 else (low / 2, low)
            )
        kept = (np.concatenate(self._kept) if self._kept else np.empty(0)).astype(np.float64)
        # Halved, the range of the largest numbers is a number too.
        counts, edges = np.histogram(kept / 2, BINS, (low / 2, high / 2))
        return counts, edges * 2

    def sparkline(self, is_shown: Callable[[str], bool] = lambda text: True) -> str:
        """The histogram in one line of text; in ASCII where blocks are not shown."""
        counts, _ = self.histogram()
        if not counts.max():
            return ""
        # What is there at all is seen.
        blocks = _BLOCKS if is_shown(_BLOCKS) else _PLAIN_BLOCKS
        heights = np.ceil(counts * (len(blocks) - 1) / counts.max()).astype(int)
        return "".join(blocks[height] for height in heights)

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON-like values."""
        counts, edges = self.histogram()
        return {
            "count": self.count,
            "min": self.low,
            "mean": self.mean,
            "max": self.high,
            "nan_share": self.nan / self.count if self.count else 0.0,
            "infinite_share": self.infinite / self.count if self.count else 0.0,
            **({"row_lengths": self.lengths} if self.lengths else {}),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }


def as_complex64(values: Array) -> Array:
    """Half complex numbers, which numpy knows only as pairs, as complex64; any other array as it is."""
    if values.dtype.names is None:
        return values
    whole = np.empty(values.shape, np.complex64)
    whole.real, whole.imag = values["real"], values["imag"]
    return whole


def _mean(finite: Array) -> float:
    with np.errstate(over="ignore"):
        mean = float(finite.mean(dtype=np.float64))
    return (
        mean
        if np.isfinite(mean)
        else float((finite.astype(np.float64) / finite.size).sum().clip(finite.min(), finite.max()))
    )


def _numbers(values: Array) -> Array:
    """The values as numbers one can calculate with, flat: float32 where that holds them, else float64."""
    values = as_complex64(values)
    if values.dtype.kind == "c":
        # The magnitude of a finite number may be infinite.
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.abs(values)
    exact = (
        np.float32
        if values.dtype.kind not in "iu" and values.dtype.itemsize <= _FLOAT32_BYTES
        else np.float64
    )
    return values.astype(exact, copy=False).ravel()
