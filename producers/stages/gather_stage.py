"""Knowledge on the host -> the records of a pass, its end record last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from tutelage.producers.run import Run
from tutelage.producers.stages.devices import Forwarded
from tutelage.producers.stages.encode import RecordParts
from tutelage.producers.stages.forward import ForwardStage


class GatherStage:
    """Cuts the rows of a pass into records.

    Args:
        forward: Gives knowledge.
        run: Knows which record comes next, and how many rows it has.
        open_sink: Opens the sink once R is chosen: it must be open before a record is encoded.
    """

    def __init__(self, forward: ForwardStage, run: Run, open_sink: Callable[[], None]) -> None:
        self._forward = forward
        self._run = run
        self._open_sink = open_sink
        self._records: deque[RecordParts] = deque()
        self._ended = False

    def poll(self, *, eager: bool) -> RecordParts | None:
        """Return the next record if it is full, or if the pass has ended."""
        while not self._records and not self._ended:
            forwarded = self._forward.poll(eager=eager)
            if forwarded is not None:
                self.add(forwarded)
            elif self._run.is_undecided and self._run.is_due:
                self._records.extend(self._run.decide())
            elif self._forward.pending():
                break
            else:
                self._ended = True
                self._records.extend(self._run.end_pass())
            self._open_sink()
        return self._records.popleft() if self._records else None

    def add(self, forwarded: Forwarded) -> None:
        """Add the rows of a group of batches."""
        self._run.stats.forward_s += forwarded.seconds
        for batch in forwarded.batches:
            # Waits until the copy to the host is done; an empty batch has no description.
            columns = batch.columns()
            if batch.described:
                self._records.extend(self._run.add(columns, batch.rows, batch.description))

    def pending(self) -> Sequence[Future[Any]]:
        """What the stage before waits for."""
        return () if self._ended else self._forward.pending()
