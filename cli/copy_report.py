"""Runs a copy, shows its progress and prints its result: for `record` and `replay`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tutelage.cli.printing import say
from tutelage.cli.progress import Progress, format_amount

if TYPE_CHECKING:
    from tutelage.tools.in_order import Counts


def copy_with_progress(
    source: str, target: str, copy: Callable[[Callable[[Counts], None]], Counts]
) -> None:
    """Copy a run and print one line.

    Args:
        source: The source's name.
        target: The target's name.
        copy: Does the copy. It is given the function to call with the counts so far.
    """
    with Progress(f"{source} to {target}") as progress:
        copied = copy(
            lambda counts: progress.show(counts.rows, counts.records, "records", counts.nbytes)
        )
    dropped = f"; {copied.duplicates} duplicates dropped" if copied.duplicates else ""
    total = format_amount(copied.rows, copied.records, "records", copied.nbytes, progress.seconds)
    say(f"{target}: {total}{dropped}")
