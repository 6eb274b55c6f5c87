"""How far a command has come: a live line on a terminal, a log line now and then elsewhere; always on stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tutelage.cli.printing import say
from tutelage.schemas.printable import printable

_LINE_EVERY_S = 10.0


class Progress:
    """Shows rows, records and rate of one activity. Use it in a `with`; call `show` as often as you like."""

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
        """Say that so many rows in so many units (records, batches) are done."""
        now = time.monotonic()
        if self._live is None and now - self._shown < _LINE_EVERY_S:
            return
        if self._live is not None and now - self._shown < 0.1:
            return
        self._shown = now
        state = said(rows, units, unit, nbytes, now - self._began)
        if self._live is not None:
            self._live.update(self._task, state=state)
        else:
            say(f"{self._doing}: {state}", error=True)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began


def said(rows: int, units: int, unit: str, nbytes: int, seconds: float) -> str:
    """An amount and its rate, for people."""
    from rich.filesize import decimal

    rate = rows / seconds if seconds > 0 else 0
    size = f", {decimal(nbytes)}" if nbytes else ""
    return f"{rows:,} rows in {units:,} {unit}{size}, {rate:,.0f} rows/s"
