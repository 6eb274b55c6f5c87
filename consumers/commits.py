"""Tells sources' groups how far the training loop is."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tutelage.consumers.place import Place
from tutelage.consumers.progress import Progress
from tutelage.consumers.sources.base import Source

_EVERY_S = 0.1


class Commits:
    """Commits now and then while batches are at hand, and always before the loop may have to wait."""

    def __init__(self, sources: Sequence[Source], progress: Progress) -> None:
        self._sources = sources
        self._progress = progress
        self._last_s = 0.0

    def __call__(self, *, more: bool = False) -> None:
        """Commit where the loop is; with `more`, batches are at hand and it need not be now."""
        if not more or time.monotonic() - self._last_s >= _EVERY_S:
            self.at(self._progress.place)

    def at(self, place: Place) -> None:
        """Commit a place."""
        self._last_s = time.monotonic()
        for source, position in zip(self._sources, place.of(len(self._sources)), strict=True):
            source.commit(position)
