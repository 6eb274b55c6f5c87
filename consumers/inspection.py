"""What can be asked of a student while it reads, from any thread and without waiting."""

from __future__ import annotations

from tutelage.consumers.chain import Chain
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.state_keeper import StateKeeper
from tutelage.consumers.stats import StreamStats, StreamStatus, StudentStats, stream_statuses
from tutelage.transport.waiting import Activity, Status


class Inspection:
    """The part of `Student` that answers. What only DataLoader workers know is a ConfigurationError, never a zero."""

    _sources: list[Source]
    _started: bool
    _opened: list[StreamInfo] | None
    _chain: Chain | None
    _keeper: StateKeeper
    _dropped: list[dict[str, int]]
    _doing: Status
    _stats: StudentStats
    _stream_stats: list[StreamStats]

    def __repr__(self) -> str:
        if self.read_by_workers:
            state = "read by DataLoader workers"
        else:
            progress = self._keeper.progress
            state = (
                f"pass {progress.pass_index}, {progress.batches} batches delivered"
                if self._started
                else "not started"
            )
        return f"Student(of {', '.join(source.name for source in self._sources) or 'no teachers'}; {state})"

    @property
    def stats(self) -> StudentStats:
        """Batches and rows given so far, and where the time went.

        Raises:
            ConfigurationError: DataLoader workers have read, so that this process does not know.
        """
        self._keeper.check_known_here("stats", ever=True)
        return self._stats

    @property
    def stream_stats(self) -> list[StreamStats]:
        """What came from each teacher, in the order of registration.

        Raises:
            ConfigurationError: DataLoader workers have read, so that this process does not know.
        """
        self._keeper.check_known_here("stream_stats", ever=True)
        return self._stream_stats

    @property
    def read_by_workers(self) -> bool:
        """Whether DataLoader workers read, so that only they know where the student is."""
        return self._keeper.is_read_by_workers

    @property
    def queue_size(self) -> int:
        """Merged batches that can be taken now without waiting (Pantheon's `get_knowledge_qsize`).

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("queue_size")
        chain = self._chain
        return chain.ready + self._keeper.progress.left if chain is not None else 0

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher, the records dropped in this pass: `duplicates` and `zombies`.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("dropped")
        chain = self._chain
        return chain.dropped if chain is not None else self._dropped

    @property
    def pass_index(self) -> int:
        """The pass that is read, or comes next, from 0.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("pass_index")
        return self._keeper.progress.pass_index

    @property
    def activity(self) -> Activity:
        """What the student does right now, in words and seconds. Safe in any thread."""
        if self.read_by_workers:
            return Activity(doing="read by DataLoader workers", seconds=0.0)
        return self._doing.activity

    def stream_statuses(self) -> list[StreamStatus]:
        """Return how each teacher's stream stands. Safe in any thread; never waits.

        Returns:
            One entry a teacher, in the order of registration; none before the streams are open.
        """
        opened, chain = self._opened, self._chain
        if opened is None or self._keeper.was_read_by_workers:
            return []
        queued = chain.queued_bytes if chain is not None else [0] * len(opened)
        return stream_statuses(
            opened,
            self._sources,
            self._stream_stats,
            self._keeper.progress.state.positions_of(len(opened)),
            queued,
        )

    @property
    def batches_delivered(self) -> int:
        """Batches given in this pass, including those before a resume.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("batches_delivered")
        return self._keeper.progress.batches
