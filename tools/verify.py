"""A source -> whether all of it is there, every checksum, number and end checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tutelage.consumers.sources.base import Source
from tutelage.schemas.record import Stream
from tutelage.tools.encoded_keys import decode_encoded
from tutelage.tools.in_order import Counts, in_order


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """A run that is whole.

    Args:
        stream: Who wrote it, and how it is cut.
        counts: What it holds.
    """

    stream: Stream
    counts: Counts = field(default_factory=Counts)


def verify(
    source: Source,
    *,
    timeout_s: float = 10.0,
    progress: Callable[[Counts], None] = lambda counts: None,
    counts: Counts | None = None,
) -> Verified:
    """Read all of a file or topic and check it.

    Args:
        source: What to read; closed at the end.
        timeout_s: Seconds after which a record of a topic counts as missing.
        progress: Called with the counts so far, once a record.
        counts: Counts to add to, for what was read before an error.

    Returns:
        The run, which is whole.

    Raises:
        WaitTimeout: A record is missing at the end of what is there.
        DataError: Records are wrong or missing; the message says where.
    """
    seen = counts if counts is not None else Counts()
    try:
        opened = source.open(timeout_s)
        for record in in_order(source, opened, timeout_s=timeout_s, counted=seen):
            for key, column in record.columns.items():
                if opened.description[key].encoding is not None:
                    decode_encoded(opened.description[key], column, record.head)
            seen.add(record)
            progress(seen)
    finally:
        source.close()
    return Verified(stream=opened.stream, counts=seen)
