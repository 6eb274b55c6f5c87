"""The values of a key -> statistics: range, mean, share of NaN, histogram. No I/O."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tutelage.schemas.record import Array, Column, Ragged

BINS = 16
_LARGEST = sys.float_info.max
# The values that a histogram is made of: all together, and per record.
_MAX_SAMPLES, _SAMPLES_PER_RECORD = 1 << 20, 4096
_FLOAT32_BYTES = 4
# A relative range below this is too narrow for the edges of the bins to differ.
_NARROW_RANGE = 1e-12
_BLOCKS, _PLAIN_BLOCKS = " ▁▂▃▄▅▆▇█", " .,:-=+*#"


@dataclass(kw_only=True, slots=True)
class KeyStatistics:
    """The statistics of one key, over the values added so far.

    Complex numbers count by their magnitude, and bools as 0 and 1. NaN and infinities are counted,
    and left out of everything else. The histogram is made of a sample: evenly chosen values of each
    record, a million at most.

    Args:
        count: Values.
        nan: NaN among them.
        infinite: Infinities among them.
        low: The lowest finite value; None if there is none.
        high: The highest finite value; None if there is none.
        mean: The mean of the finite values; None if there are none.
        lengths: Of a ragged key, the shortest and the longest row.
        measure: Of a key that is sampled or top-k: what the values are.
        positions: Its positions.
        entries: The entries of all its positions.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    lengths: list[int] = field(default_factory=list)
    measure: str = ""
    positions: int = 0
    entries: int = 0
    _samples: list[Array] = field(default_factory=list)
    _sample_count: int = 0

    def add(self, column: Column) -> None:
        """Add the values of a column."""
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
        is_finite = np.isfinite(values)
        if not is_finite.all():
            finite = values[is_finite]
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
        # A running mean, because the sum of very large numbers overflows.
        share = finite.size / known
        self.mean = mean if self.mean is None else self.mean * (1 - share) + mean * share
        # A copy, because a view would keep the whole record in memory.
        sample = finite[:: max(1, finite.size // _SAMPLES_PER_RECORD)].copy()
        self._samples.append(sample)
        self._sample_count += sample.size
        if self._sample_count > _MAX_SAMPLES:
            self._samples = [np.concatenate(self._samples)[::2]]
            self._sample_count = self._samples[0].size

    def histogram(self) -> tuple[Array, Array]:
        """Make the histogram.

        Returns:
            Counts `[BINS]` and edges `[BINS + 1]`, from the lowest to the highest value.
        """
        low, high = self.low or 0.0, self.high or 0.0
        if high - low <= abs(low) * _NARROW_RANGE:
            # Practically one value: it goes to the first bin.
            low, high = (
                (low, low + max(1.0, abs(low))) if low < 0 or low < _LARGEST / 2 else (low / 2, low)
            )
        samples = np.concatenate(self._samples) if self._samples else np.empty(0)
        # Halved, because the range of very large numbers overflows.
        counts, edges = np.histogram(samples.astype(np.float64) / 2, BINS, (low / 2, high / 2))
        return counts, edges * 2

    def sparkline(self, is_shown: Callable[[str], bool] = lambda text: True) -> str:
        """Draw the histogram as one line of text.

        Args:
            is_shown: Whether the terminal can show a text; if not the block characters, the line
                is ASCII.
        """
        counts, _ = self.histogram()
        if not counts.max():
            return ""
        blocks = _BLOCKS if is_shown(_BLOCKS) else _PLAIN_BLOCKS
        # Rounded up, so that a bin with few values is visible.
        heights = np.ceil(counts * (len(blocks) - 1) / counts.max()).astype(int)
        return "".join(blocks[height] for height in heights)

    def as_dict(self) -> dict[str, Any]:
        """The statistics as JSON-like values."""
        counts, edges = self.histogram()
        return {
            "count": self.count,
            "min": self.low,
            "mean": self.mean,
            "max": self.high,
            "nan_share": self.nan / self.count if self.count else 0.0,
            "infinite_share": self.infinite / self.count if self.count else 0.0,
            **({"row_lengths": self.lengths} if self.lengths else {}),
            **(
                {
                    "measure": self.measure,
                    "positions": self.positions,
                    "entries_per_position": self.entries / self.positions,
                }
                if self.positions
                else {}
            ),
            "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }


def as_complex64(values: Array) -> Array:
    """Convert half-precision complex numbers, which numpy holds as pairs; return others as is."""
    if values.dtype.names is None:
        return values
    converted = np.empty(values.shape, np.complex64)
    converted.real, converted.imag = values["real"], values["imag"]
    return converted


def _mean(finite: Array) -> float:
    with np.errstate(over="ignore"):
        mean = float(finite.mean(dtype=np.float64))
    return (
        mean
        if np.isfinite(mean)
        else float((finite.astype(np.float64) / finite.size).sum().clip(finite.min(), finite.max()))
    )


def _numbers(values: Array) -> Array:
    """The values flat, as float32 where that is exact, else as float64."""
    values = as_complex64(values)
    if values.dtype.kind == "c":
        # The magnitude of a finite complex number may overflow.
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.abs(values)
    exact = (
        np.float32
        if values.dtype.kind not in "iu" and values.dtype.itemsize <= _FLOAT32_BYTES
        else np.float64
    )
    return values.astype(exact, copy=False).ravel()
