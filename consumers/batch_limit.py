"""The error for a batch that would take more memory than allowed, raised before the memory is taken. Pure."""

from __future__ import annotations

from tutelage.schemas.errors import BatchTooLarge


def too_large(
    key: str, *, rows: int, longest: int | None, nbytes: int, total: int, limit: int, enough: int, padded: bool = False
) -> BatchTooLarge:
    """The error, with every way out of it.

    Args:
        key: The key that takes most.
        rows: The rows of the batch that were counted.
        longest: The elements of the longest of them, where the key is ragged.
        nbytes: What the key takes.
        total: What all keys take together.
        limit: What they may take.
        enough: What the whole batch would take.
        padded: Whether the rows would be padded to the longest.
    """
    ragged = f", the longest of {longest:,} elements," if longest is not None else ""
    ways = ["ask for a smaller batch size (--batch-size)"]
    if padded:
        ways.append("for values without padding (RaggedOptions(padded=False))")
    ways.append(f"or allow more: Student(limits=Limits(batch_bytes={enough})), --batch-bytes {enough}")
    return BatchTooLarge(
        f"key {key!r}: {rows:,} rows of a batch{ragged} take {nbytes:,} bytes{' once padded' if padded else ''}, and all keys {total:,}; "
        f"the limit batch_bytes is {limit:,}. {', '.join(ways)}"
    )
