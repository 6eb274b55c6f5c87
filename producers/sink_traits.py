"""What the records of a run depend on in its sink, and the rows per record that follow from it."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.producers.record_share import ALL_RECORDS, RecordShare
from tutelage.schemas.limits import DEFAULT_LIMITS

# When R is chosen automatically, one record of each partition together has at most this size: a
# student holds that many while it puts them in order.
_ROUND_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkTraits:
    """What the records of a run depend on in the sink that it is written to.

    Args:
        name: What people call it, for messages.
        partitions: How many partitions a new run has.
        target_record_bytes: About how large a record should be.
        max_record_bytes: How large it may be; None if there is no limit.
        linger_s: How long rows may wait for R to be chosen, in seconds; None if nobody waits.
        share: Which records of the run are written there. A writer counts rows and records among
            its own.
    """

    name: str
    partitions: int
    target_record_bytes: int
    max_record_bytes: int | None
    linger_s: float | None
    share: RecordShare = ALL_RECORDS

    def rows_per_record(self, rows: int, nbytes: int, *, at_once: bool) -> int:
        """Choose R from the first rows of a run and their bytes.

        Args:
            rows: How many rows came.
            nbytes: Their bytes.
            at_once: Whether these rows must fill a record.
        """
        target = min(self.target_record_bytes, _ROUND_BYTES // self.partitions)
        if self.max_record_bytes is not None:
            # Ragged rows differ in size: leave room for longer rows in later records.
            target = min(target, self.max_record_bytes // 4)
        # Rows of zero bytes give no size to divide by: use the most that readers accept.
        by_size = max(1, target * rows // nbytes) if nbytes else DEFAULT_LIMITS.empty_rows
        return min(by_size, rows) if at_once or self.linger_s is not None else by_size
