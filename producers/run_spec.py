"""What a run must be, as the user asked for it. Pure: no I/O, threads or clocks."""

from __future__ import annotations

from dataclasses import dataclass

from tutelage.schemas.errors import SinkExists
from tutelage.schemas.tail import Tail


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpec:
    """What identifies a run. A restarted teacher must give the same values; see `Teacher`."""

    teacher: str
    revision: str = ""
    inputs_fingerprint: str = ""
    head: str = ""
    passes: int = 1
    rows_per_record: int | None = None
    run_id: str | None = None
    new_run: bool = False
    #: Whether a finished run is opened again without being named, to look at it.
    reopens: bool = False

    def begins_behind(self, tail: Tail) -> bool:
        """Whether to begin a new run behind the one that is there.

        A named run begins once; after that it is continued.
        """
        return self.new_run and (self.run_id is None or self.run_id != tail.stream.run_id)

    def check_continues(self, tail: Tail, where: str, *, holds_runs: bool) -> None:
        """Check that the run that is there is this one and may be continued.

        Args:
            tail: What the sink holds.
            where: The sink's name, for messages.
            holds_runs: Whether a new run may begin behind a finished one in the sink.

        Raises:
            SinkExists: It is another run (the message says what differs), or it is finished and
                `run_id` does not name it.
        """
        theirs = tail.stream
        elsewhere = "Write"
        if holds_runs:
            elsewhere = "Begin a new run behind it with new_run=True (--new-run), or write"
        differs = [
            f"{name} {getattr(theirs, name)!r} there, {getattr(self, name)!r} here"
            for name in ("teacher", "revision", "inputs_fingerprint", "head", "passes")
            if getattr(theirs, name) != getattr(self, name)
        ]
        if self.rows_per_record is not None and self.rows_per_record != theirs.rows_per_record:
            differs.append(
                f"{theirs.rows_per_record} rows per record there, {self.rows_per_record} here"
            )
        if self.run_id is not None and self.run_id != theirs.run_id:
            differs.append(f"run_id {theirs.run_id!r} there, {self.run_id!r} here")
        if differs:
            raise SinkExists(
                f"{where} holds another run, {theirs}: {'; '.join(differs)}. {elsewhere} elsewhere"
            )
        if tail.finished and self.run_id is None and not self.reopens:
            replaced = ""
            if not holds_runs:
                replaced = ", or replace the file with overwrite=True (--overwrite)"
            raise SinkExists(
                f"{where} exists and holds a finished run, {theirs}. {elsewhere} elsewhere{replaced}"
            )
