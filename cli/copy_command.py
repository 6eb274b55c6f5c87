"""What `record` and `replay` share: copy, show how far, say what came of it, close both ends."""

from __future__ import annotations

from tutelage.cli.printing import say
from tutelage.cli.progress import Progress, said
from tutelage.consumers.sources.base import Source
from tutelage.producers.sinks.base import Sink
from tutelage.tools.copy import copy_stream


def copied_with_progress(source: Source, sink: Sink, *, timeout_s: float) -> None:
    """Copy a run from source to sink and print one line."""
    try:
        with Progress(f"{source.name} to {sink.name}") as progress:
            copied = copy_stream(
                source, sink, timeout_s=timeout_s, progress=lambda c: progress.show(c.rows, c.records, "records", c.nbytes)
            )
        dropped = f"; {copied.duplicates} duplicates dropped" if copied.duplicates else ""
        total = said(copied.rows, copied.records, "records", copied.nbytes, progress.seconds)
        say(f"{sink.name}: {total}{dropped}")
    finally:
        source.close()
        sink.close()
