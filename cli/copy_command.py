"""What `record` and `replay` share: show how far the copy is, and say what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tutelage.cli.printing import say
from tutelage.cli.progress import Progress, said

if TYPE_CHECKING:
    from tutelage.tools.in_order import Counts


def with_progress(
    source: str, target: str, copy: Callable[[Callable[[Counts], None]], Counts]
) -> None:
    """Copy a run and print one line.

    Args:
        source: The source's name.
        target: What the records go to.
        copy: The copy, given what shows its progress.
    """
    with Progress(f"{source} to {target}") as progress:
        copied = copy(
            lambda counts: progress.show(counts.rows, counts.records, "records", counts.nbytes)
        )
    dropped = f"; {copied.duplicates} duplicates dropped" if copied.duplicates else ""
    total = said(copied.rows, copied.records, "records", copied.nbytes, progress.seconds)
    say(f"{target}: {total}{dropped}")
