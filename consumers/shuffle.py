"""The order of the rows of a shuffled pass, by arithmetic from a seed. No I/O, threads or clocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xxhash

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.record import Array
from tutelage.schemas.splitmix import splitmix

_MOST_SEED = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Shuffle:
    """How the rows of a pass are shuffled: whole records first, then the rows of a window.

    Args:
        seed: Decides the order. Each pass has another; a pass that is given again has the same one
            unless the seed differs.
        window_rows: Rows that are shuffled among each other, after the records were. Each window is
            rounded to whole records, and has one at least.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    seed: int
    window_rows: int = 65_536

    def __post_init__(self) -> None:
        check_whole_number("seed", self.seed, least=0, most=_MOST_SEED)
        check_whole_number("window_rows", self.window_rows)

    def plain(self) -> list[int]:
        """Return it as JSON values, for checkpoints.

        Returns:
            The seed and the window's rows.
        """
        return [self.seed, self.window_rows]


class ShuffledOrder:
    """The order of the rows of one pass: place -> row.

    It depends on the shuffle, the pass, its rows and the unit alone: not on batches or ranks.

    Args:
        shuffle: How rows are shuffled.
        rows: The rows of the pass.
        unit: The rows of a record.
        pass_index: The pass.
    """

    def __init__(self, shuffle: Shuffle, *, rows: int, unit: int, pass_index: int) -> None:
        self._start = xxhash.xxh3_64_intdigest(f"{shuffle.seed}\0{pass_index}".encode())
        self._unit = unit
        self._rows = rows
        self._units = self._mixed(0, -(-rows // unit))
        sizes = np.minimum(unit, rows - self._units * unit)
        self._count = max(1, shuffle.window_rows // unit)
        # Where each window begins, and the end of the last.
        ends = np.cumsum(sizes)
        self._bounds = np.concatenate([[0], ends[self._count - 1 : -1 : self._count], [rows]])
        self._window = (-1, np.empty(0, np.int64))

    def _mixed(self, stream: int, count: int) -> Array:
        """The numbers from 0 to `count` - 1 in an order of their own."""
        start = xxhash.xxh3_64_intdigest(stream.to_bytes(8, "little"), seed=self._start)
        return np.argsort(splitmix(start, np.arange(count, dtype=np.uint64)), kind="stable")

    def rows(self, start: int, stop: int) -> Sequence[int]:
        """The rows at the places `start` to `stop`."""
        found: list[int] = []
        window = int(np.searchsorted(self._bounds, start, side="right")) - 1
        while start < stop:
            begin, end = (int(bound) for bound in self._bounds[window : window + 2])
            found += self._of_window(window)[start - begin : stop - begin].tolist()
            start, window = end, window + 1
        return found

    def _of_window(self, window: int) -> Array:
        if self._window[0] != window:
            units = self._units[window * self._count : (window + 1) * self._count]
            rows = (units[:, None] * self._unit + np.arange(self._unit)).reshape(-1)
            rows = rows[rows < self._rows]
            self._window = (window, rows[self._mixed(1 + window, len(rows))])
        return self._window[1]
