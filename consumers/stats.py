"""Counts and times of a student and of its teachers' streams, for metrics and screens.

Each number is written by one thread and only grows. A reader in another thread sees a recent value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from tutelage.consumers.compatibility import display_names
from tutelage.consumers.position import Position
from tutelage.consumers.progress import Progress
from tutelage.consumers.sources.base import Source, StreamInfo


def _per_partition() -> defaultdict[int, int]:
    return defaultdict(int)


@dataclass(kw_only=True, slots=True)
class StreamStats:
    """Counts of one teacher's stream, over all passes since the student was created.

    Args:
        records: Records read, per partition; end records are not counted.
        rows: Rows read, per partition.
        nbytes: Bytes of Avro read, per partition.
        duplicates: Records that were dropped because they were written twice.
        zombies: Records of a writer that was thought dead.
        wait_s: Seconds in which batches could not be merged because this teacher's rows were
            missing.
        decode_s: Seconds spent checking, decoding and copying records.
        load_s: Seconds spent reading rows from a file into the memory of batches.
        needed: The partitions that this rank reads; None for all.
        read_amplification: How many times its share of the stream this rank reads.
    """

    records: defaultdict[int, int] = field(default_factory=_per_partition)
    rows: defaultdict[int, int] = field(default_factory=_per_partition)
    nbytes: defaultdict[int, int] = field(default_factory=_per_partition)
    duplicates: int = 0
    zombies: int = 0
    wait_s: float = 0.0
    decode_s: float = 0.0
    load_s: float = 0.0
    needed: frozenset[int] | None = None
    read_amplification: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamStatus:
    """The status of one teacher's stream at a moment.

    Args:
        teacher: The teacher's name, numbered if several teachers have it.
        label: The topic or file, as the label of metrics.
        stats: The stream's counts.
        offsets: Per partition, the offset from which reading would continue behind the batches that
            were given; BEGINNING where nothing was given. Empty if not known.
        ends: Per partition, the first offset and the end, as last seen. Empty if not known.
        queued_bytes: Bytes of rows that were read and are not merged yet.
    """

    teacher: str
    label: str
    stats: StreamStats
    offsets: Sequence[int]
    ends: Sequence[tuple[int, int]]
    queued_bytes: int


def stream_statuses(
    opened: Sequence[StreamInfo],
    sources: Sequence[Source],
    stats: Sequence[StreamStats],
    positions: Sequence[Position],
    queued_bytes: Sequence[int],
) -> list[StreamStatus]:
    """Return the status of each of a student's streams.

    Args:
        opened: What each source found.
        sources: The sources.
        stats: Each stream's counts.
        positions: Per stream, the position behind the batches that were given.
        queued_bytes: Per stream, the bytes that were read and are not merged yet.

    Returns:
        One status per stream.
    """
    return [
        StreamStatus(
            teacher=name,
            label=source.label,
            stats=stats,
            offsets=position.offsets,
            ends=source.ends(),
            queued_bytes=nbytes,
        )
        for name, source, stats, position, nbytes in zip(
            display_names(opened), sources, stats, positions, queued_bytes, strict=True
        )
    ]


class StudentStats:
    """Counts of what the training loop was given since the student was created, and times.

    Args:
        progress: Counts the batches and rows.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        #: Seconds that the training loop waited for batches.
        self.starved_s = 0.0
        #: Seconds that the training loop took between batches. The time of batches that were merged
        #: together is added at once.
        self.training_s = 0.0
        #: Seconds spent merging.
        self.merge_s = 0.0
        #: The longest wait for a batch, in seconds.
        self.longest_wait_s = 0.0
        #: When the last checkpoint was written, in seconds since the epoch.
        self.saved: float | None = None

    def __repr__(self) -> str:
        batches, rows = self._progress.totals
        return (
            f"StudentStats({batches} batches of {rows} rows; starved {self.starved_s:.1f} s, "
            f"training {self.training_s:.1f} s)"
        )

    @property
    def batches(self) -> int:
        """The number of batches that were given."""
        return self._progress.totals[0]

    @property
    def rows(self) -> int:
        """The number of rows in the batches that were given, those of all ranks counted."""
        return self._progress.totals[1]
