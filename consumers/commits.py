"""Tells the sources' consumer groups how far the training loop is."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tutelage.consumers.progress import Progress
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.sources.base import Source

_EVERY_S = 0.1


class Commits:
    """Commits every 0.1 s while batches are at hand, and always before the loop may have to wait."""

    def __init__(self, sources: Sequence[Source], progress: Progress) -> None:
        self._sources = sources
        self._progress = progress
        self._last_s = 0.0

    @classmethod
    def if_wanted(cls, sources: Sequence[Source], progress: Progress) -> Commits | None:
        """Commits for these sources; None if none of them has a group."""
        return cls(sources, progress) if any(source.commits for source in sources) else None

    def __call__(self, *, more: bool = False) -> None:
        """Commit where the loop is, unless `more` batches are at hand and it did so just now."""
        if not more or time.monotonic() - self._last_s >= _EVERY_S:
            self.at(self._progress.state)

    def at(self, state: ResumeState) -> None:
        """Commit a state's positions."""
        self._last_s = time.monotonic()
        positions = state.positions_of(len(self._sources))
        for source, position in zip(self._sources, positions, strict=True):
            source.commit(position)
