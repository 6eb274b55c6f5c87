"""Shows progress on standard error: a live line on a terminal, else a line at intervals."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tutelage.cli.printing import say
from tutelage.schemas.printable import printable

_LINE_EVERY_S = 10.0
_LIVE_EVERY_S = 0.1


class Progress:
    """Shows the rows, the records and the rate of one activity.

    Use it in a `with` statement. `show` may be called as often as needed; it prints at intervals.

    Args:
        doing: What the command does, such as "verifying teacher1.avro".
    """

    def __init__(self, doing: str) -> None:
        self._doing = printable(doing)
        self._began = time.monotonic()
        self._shown = self._began
        self._live: Any = None
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress as Bar
            from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                TextColumn("{task.fields[state]}", markup=False),
                TimeElapsedColumn(),
            )
            self._live = Bar(
                *columns, console=Console(stderr=True), transient=True, refresh_per_second=8
            )
            self._task = self._live.add_task(self._doing, total=None, state="")

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: int, units: int, unit: str, nbytes: int = 0) -> None:
        """Show the amount so far.

        Args:
            rows: Rows so far.
            units: Records or batches so far.
            unit: "records" or "batches".
            nbytes: Bytes so far; not shown if 0.
        """
        now = time.monotonic()
        if now - self._shown < (_LIVE_EVERY_S if self._live is not None else _LINE_EVERY_S):
            return
        self._shown = now
        state = format_amount(rows, units, unit, nbytes, now - self._began)
        if self._live is not None:
            self._live.update(self._task, state=state)
        else:
            say(f"{self._doing}: {state}", error=True)

    @property
    def seconds(self) -> float:
        """Seconds since the activity began."""
        return time.monotonic() - self._began


def format_amount(rows: int, units: int, unit: str, nbytes: int, seconds: float) -> str:
    """An amount and its rate as text."""
    from rich.filesize import decimal

    rate = rows / seconds if seconds > 0 else 0
    size = f", {decimal(nbytes)}" if nbytes else ""
    return f"{rows:,} rows in {units:,} {unit}{size}, {rate:,.0f} rows/s"
