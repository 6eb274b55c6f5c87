"""The error for a batch that would exceed the memory limit, raised before the memory is taken.

No I/O, threads or clocks.
"""

from __future__ import annotations

from tutelage.schemas.errors import BatchTooLarge


def batch_too_large(
    key: str,
    *,
    rows: int,
    longest: int | None,
    nbytes: int,
    total: int,
    limit: int,
    enough: int,
    padded: bool = False,
) -> BatchTooLarge:
    """Return the error, whose message names every remedy.

    Args:
        key: The key that takes the most memory.
        rows: The rows of the batch that were counted so far.
        longest: The elements of the longest row, if the key is ragged.
        nbytes: Bytes that the key takes.
        total: Bytes that all keys take.
        limit: Bytes that they may take.
        enough: Bytes that the whole batch would take.
        padded: Whether the rows would be padded to the longest.
    """
    ragged = f", the longest of {longest:,} elements," if longest is not None else ""
    padding = " once padded" if padded else ""
    remedies = ["ask for a smaller batch size (--batch-size)"]
    if padded:
        remedies.append("for values without padding (RaggedFormat(padded=False))")
    remedies.append(
        f"or allow more: Student(limits=Limits(batch_bytes={enough})), --batch-bytes {enough}"
    )
    return BatchTooLarge(
        f"key {key!r}: {rows:,} rows of a batch{ragged} take {nbytes:,} bytes{padding}, and all "
        f"keys {total:,}; the limit batch_bytes is {limit:,}. {', '.join(remedies)}"
    )
