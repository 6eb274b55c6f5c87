"""Writes batches that the user gives one by one, in the calling thread."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.producers.run import Run
from tutelage.producers.sinks.base import Sink
from tutelage.producers.stages.encode import RecordParts
from tutelage.producers.stages.encode_vectors import encode_vectors
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.transfer import start_transfer
from tutelage.producers.wire_options import WireOptions
from tutelage.producers.writer import RecordWriter
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)


class BatchWriter:
    """Writes a run batch by batch; see `Teacher.write`.

    Guarantee: once a write failed, nothing more is written: rows are missing.

    Args:
        run: The run.
        writer: Gives its records to the sink.
        sink: The sink.
        options: How keys travel.
        passes: How many passes the run has.
    """

    def __init__(
        self, run: Run, writer: RecordWriter, sink: Sink, options: WireOptions, passes: int
    ) -> None:
        self._run = run
        self._writer = writer
        self._sink = sink
        self._options = options
        self._passes = passes
        # Passes that the sink holds to their end, and passes that the user has ended.
        self._passes_held = run.pass_index
        self._passes_ended = 0
        # Batches and rows that were given in this pass.
        self._batches = self._rows = 0
        self._was_used = False
        self._failed = False
        self._has_warned = False

    @property
    def has_open_pass(self) -> bool:
        """Whether batches were written and their pass can be ended."""
        return self._was_used and not self._failed and not self._run.complete

    def poll(self) -> None:
        """Raise what writing has run into since the last call. Does not wait."""
        self._writer.poll()

    def write(self, knowledge: Mapping[str, Any]) -> None:
        """Write a batch, unless the sink holds its pass."""
        if self._passes_ended >= self._passes:
            raise ConfigurationError(
                f"all {self._passes} passes of this run are written; use a new Teacher"
            )
        self._was_used = True
        if self._passes_ended < self._passes_held:
            return
        run = self._run
        if self._options.encoded:
            place = Place(
                stream=run.name,
                pass_index=self._passes_ended,
                batch=self._batches,
                first_row=self._rows,
            )
            knowledge = encode_vectors(knowledge, self._options, run.promised, place)
        batch = start_transfer(knowledge, self._options, run.promised)
        # Waits until the copy to the host is done; an empty batch has no description.
        columns = batch.columns()
        self._batches += 1
        self._rows += batch.rows
        if batch.described:
            self._write(lambda: self._run.add(columns, batch.rows, batch.description))

    def end_pass(self) -> None:
        """End the pass; the last one completes the run."""
        self._passes_ended += 1
        self._batches = self._rows = 0
        if self._passes_ended <= self._passes_held:
            return
        self._write(self._run.end_pass)
        if self._run.complete:
            self._sink.finish()

    def write_waiting(self) -> None:
        """Before a wait for the other side: choose R if it is not chosen, and write full records.

        Warns once if rows still wait: the student does not get them.
        """
        run = self._run
        if not self.has_open_pass:
            return
        self._write(lambda: run.decide(at_once=True) if run.is_undecided else [])
        waiting = run.rows_waiting
        if waiting and not self._has_warned:
            self._has_warned = True
            log.warning(
                "%s: %d rows wait for more, since a record has %d; the student does not get them "
                "before; Teacher(rows_per_record=1), or a divisor of the rows that are written "
                "before each send and recv, lets them go",
                self._sink.name,
                waiting,
                run.rows_per_record,
            )

    def _write(self, made: Callable[[], list[RecordParts]]) -> None:
        """Write the records that a call returns."""
        self._run.doing.now("writing by hand")
        if self._failed:
            raise ConfigurationError(
                "an earlier write failed; a new Teacher with the same arguments goes on from what "
                "was written"
            )
        try:
            records = made()
            self._writer.open()
            for parts in records:
                self._writer.write(self._writer.encode(parts))
            # The caller may change the batch's memory once this returns. What failed in the
            # background is raised here.
            self._writer.release_memory()
        except BaseException:
            self._failed = True
            with contextlib.suppress(Exception):
                self._writer.release_memory()
            raise
