"""The properties of a student that can be read at any time, from any thread, without waiting."""

from __future__ import annotations

from tutelage.consumers.pass_chain import PassChain
from tutelage.consumers.settings import Settings
from tutelage.consumers.shard import Shard, found_shard
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.ragged import RaggedFormat
from tutelage.consumers.state_keeper import StateKeeper
from tutelage.consumers.stats import StreamStats, StreamStatus, StudentStats, stream_statuses
from tutelage.transport.status import Activity, Status


class Inspection:
    """The part of `Student` that reports its state.

    Guarantee: a number that only DataLoader workers know raises ConfigurationError; it is never
    reported as zero.
    """

    _settings: Settings
    _sources: list[Source]
    _started: bool
    _opened: list[StreamInfo] | None
    _chain: PassChain | None
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
        teachers = ", ".join(source.name for source in self._sources) or "no teachers"
        return f"Student(of {teachers}; {state})"

    @property
    def shard(self) -> Shard:
        """Which rank of how many this student is; rank 0 of 1 if it was given no `shard`.

        Raises:
            ConfigurationError: It is `"auto"`, and the environment names no rank of some.
        """
        return found_shard(self._settings.shard)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The teachers' sources, in the order of registration."""
        return tuple(self._sources)

    @property
    def ragged_format(self) -> RaggedFormat:
        """How ragged keys are given."""
        return self._settings.ragged

    @property
    def stats(self) -> StudentStats:
        """Counts of batches and rows, and where the time was spent.

        Raises:
            ConfigurationError: DataLoader workers have read, so this process does not know.
        """
        self._keeper.check_known_here("stats", ever=True)
        return self._stats

    @property
    def stream_stats(self) -> list[StreamStats]:
        """Counts of each teacher's records and rows, in the order of registration.

        Raises:
            ConfigurationError: DataLoader workers have read, so this process does not know.
        """
        self._keeper.check_known_here("stream_stats", ever=True)
        return self._stream_stats

    @property
    def read_by_workers(self) -> bool:
        """Whether DataLoader workers read, so only they know where the student is."""
        return self._keeper.is_read_by_workers

    @property
    def queue_size(self) -> int:
        """The number of batches that can be taken without waiting.

        Pantheon calls it `get_knowledge_qsize`.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("queue_size")
        chain = self._chain
        return chain.ready + self._keeper.progress.left if chain is not None else 0

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher, the number of records dropped in this pass: `duplicates` and `zombies`.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("dropped")
        chain = self._chain
        return chain.dropped if chain is not None else self._dropped

    @property
    def pass_index(self) -> int:
        """The number of the pass that is being read, or is next, from 0.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("pass_index")
        return self._keeper.progress.pass_index

    @property
    def activity(self) -> Activity:
        """What the student is doing now, and for how many seconds. Safe in any thread."""
        if self.read_by_workers:
            return Activity(doing="read by DataLoader workers", seconds=0.0)
        return self._doing.activity

    def stream_statuses(self) -> list[StreamStatus]:
        """Return the status of each teacher's stream. Safe in any thread; never waits.

        Returns:
            One entry per teacher, in the order of registration; empty before the streams are open.
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
        """The number of batches given in this pass, including those before a resume.

        Raises:
            ConfigurationError: DataLoader workers read.
        """
        self._keeper.check_known_here("batches_delivered")
        return self._keeper.progress.batches
