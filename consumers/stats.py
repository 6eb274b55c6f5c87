"""What a student and each of its teachers came to, counted as it happens: plain numbers, for metrics and screens.

Each number is written by one thread and only grows; whoever reads one sees it as it was a moment ago.
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
    """One teacher's stream since the student was made, every pass of it: by partition where that says more.

    `wait_s` is the time in which batches could not be merged for want of this teacher's rows, in seconds; `decode_s` that of
    checking, decoding and copying records, `load_s` that of reading records from a file to where they belong.
    """

    records: defaultdict[int, int] = field(default_factory=_per_partition)
    rows: defaultdict[int, int] = field(default_factory=_per_partition)
    nbytes: defaultdict[int, int] = field(default_factory=_per_partition)
    duplicates: int = 0
    zombies: int = 0
    wait_s: float = 0.0
    decode_s: float = 0.0
    load_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamStatus:
    """How one teacher's stream stands right now.

    `offsets` is where reading would go on in each partition, behind the batches that were given (BEGINNING where nothing was);
    `ends` each partition's first offset and its end, as last seen. Both are empty where they are not known.
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
    """How each of a student's streams stands."""
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
    """What was given to the training loop since the student was made, and where the time went, in seconds.

    `starved_s` is the time the loop waited for batches, `training_s` what it took between them; the time of batches that came together
    is counted together. `saved` is when the last checkpoint was written, in seconds since the epoch.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        self.starved_s = 0.0
        self.training_s = 0.0
        self.merge_s = 0.0
        self.longest_wait_s = 0.0
        self.saved: float | None = None

    def __repr__(self) -> str:
        batches, rows = self._progress.totals
        return f"StudentStats({batches} batches of {rows} rows; starved {self.starved_s:.1f} s, training {self.training_s:.1f} s)"

    @property
    def batches(self) -> int:
        """Batches that were given."""
        return self._progress.totals[0]

    @property
    def rows(self) -> int:
        """Rows of the batches that were given."""
        return self._progress.totals[1]
