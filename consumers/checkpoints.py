"""A student's state: taken, loaded, written to a file, and committed to consumer groups."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tutelage.consumers.batch_position import check_position, state_behind
from tutelage.consumers.checkpoint_file import load_checkpoint, save_checkpoint
from tutelage.consumers.commits import Commits
from tutelage.consumers.resume_state import ResumeState, from_state_dict, to_state_dict
from tutelage.consumers.settings import Settings
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.state_keeper import StateKeeper
from tutelage.consumers.stats import StudentStats
from tutelage.schemas.arguments import absolute_path

if TYPE_CHECKING:
    from tutelage.consumers.stages.merge import Merge


class Checkpoints:
    """The part of `Student` that says where it is and goes on from there."""

    _sources: list[Source]
    _settings: Settings
    _keeper: StateKeeper
    _stats: StudentStats

    if TYPE_CHECKING:

        def _merging(self) -> Merge: ...

        def _streams(self) -> list[StreamInfo]: ...

    def state_dict(self, *, at: Any = None) -> dict[str, Any]:
        """Return where the student is, behind the last batch it gave, or behind an earlier one.

        A loader that prefetches has taken more batches than were trained on: use `at` to say which
        batch was the last. With several ranks, all return the same state, and a program with any
        number of ranks can resume from it.

        Args:
            at: What the last batch that was trained on has under `position_key`. If not given, the
                last batch that was taken.

        Returns:
            JSON-like values, for `load_state_dict` or a checkpoint of your own.

        Raises:
            ConfigurationError: The student is not started; DataLoader workers read, and `at` is not
                given; or `at` is no position, or of a batch that was not given yet.
        """
        if at is not None:
            self._merging()
            progress, opened = self._keeper.progress, self._streams()
            now, furthest = None, progress.furthest
            if not self._keeper.was_read_by_workers:
                now = self._state_now(self._keeper.saved)
                furthest = max(furthest, now.pass_index)
            state = state_behind(
                check_position(at), opened, now, self._keeper.requested, furthest=furthest
            )
        else:
            self._keeper.check_known_here("state_dict")
            if self._keeper.saved is not None:
                return dict(self._keeper.saved)
            self._merging()
            opened, state = self._streams(), self._keeper.progress.state
            if self._settings.is_dealt:
                state = state.without_offsets(truncated=self._settings.truncates)
        return to_state_dict(state, self._sources, opened, self._settings.plain())

    @property
    def place(self) -> tuple[int, int, int]:
        """The pass that the student is in, and the batches and rows of it that were given.

        Counts the rows of all ranks, and what was given before a state that was loaded. Never waits.
        """
        saved, state = self._keeper.saved, self._keeper.progress.state
        if saved is not None:
            return int(saved["pass_index"]), int(saved["batches"]), int(saved["rows"])
        return state.pass_index, state.batches, state.rows

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next `knowledge` gives the batches behind it.

        The state is compared with the sources when they are opened; `knowledge` raises RunMismatch
        or TopicIdentityError if it is of other streams, settings or another batch size.

        Args:
            state: What `state_dict` returned.

        Raises:
            ConfigurationError: The number of teachers differs.
            CorruptData: It is no student's state.
        """
        self._keeper.load(state, len(self._sources))

    def save(self, path: str | os.PathLike[str], *, at: Any = None) -> None:
        """Write `state_dict` to a file, atomically.

        The file is the old or the new one, never half of either.

        Args:
            path: The checkpoint's path. Of several ranks, one writes it.
            at: As for `state_dict`.

        Raises:
            ConfigurationError: The file cannot be written, or as for `state_dict`.
        """
        save_checkpoint(absolute_path("path", path), self.state_dict(at=at))
        self._stats.saved = time.time()

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint: `load_state_dict` from a file.

        Args:
            path: The checkpoint's path.

        Raises:
            ConfigurationError: There is no such file, or it has another number of teachers.
            CorruptData: The file is no checkpoint.
        """
        self.load_state_dict(load_checkpoint(absolute_path("path", path)))

    def commit(self) -> None:
        """Commit where the student is to the consumer groups of its sources.

        While it reads, it does so by itself.

        Raises:
            ConfigurationError: The student is not started, or DataLoader workers read.
        """
        self._keeper.check_known_here("commit")
        self._merging()
        Commits(self._sources, self._keeper.progress).at(self._state_now(self._keeper.saved))

    def _state_now(self, saved: Mapping[str, Any] | None) -> ResumeState:
        """The state that was loaded, or where the training loop is."""
        if saved is None:
            return self._keeper.progress.state
        return from_state_dict(saved, self._sources, self._streams(), self._settings.plain())
