"""Reads the passes for `tutelage learn`: batches are counted, printed, written and trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.digest import Digest
from tutelage.cli.merged_file import MergedFile
from tutelage.cli.printing import say
from tutelage.cli.progress import Progress
from tutelage.cli.strict_json import as_json

if TYPE_CHECKING:
    from tutelage import Student
    from tutelage.consumers.stages.batches import Batch


class Learning:
    """One call of `tutelage learn`.

    Args:
        student: The student, with its teachers registered and its checkpoint loaded.
        batch_size: Rows per batch.
        drop_last: Whether a pass's shorter last batch is dropped.
        rows: Rows to print; -1 prints all, and 0 none.
        out: The file that the merged knowledge is written to.
        trainer: Called once per pass with an iterator of batches.
        checkpoint: The file that the student's state is saved to.
        checkpoint_every: Batches from one save to the next.
    """

    def __init__(
        self,
        student: Student,
        *,
        batch_size: int,
        drop_last: bool,
        rows: int,
        out: Path | None,
        trainer: Callable[[Iterator[Batch]], object] | None,
        checkpoint: Path | None,
        checkpoint_every: int,
    ) -> None:
        self._student = student
        # Only printing ends at the rows that were asked for, and must not wait until a batch is full.
        self._only_prints = rows > 0 and out is None and trainer is None and checkpoint is None
        self._batch_size = 1 if self._only_prints else batch_size
        self._drop_last = drop_last
        self._wanted_rows = rows
        self._out = out
        self._trainer = trainer
        self._checkpoint = checkpoint
        self._checkpoint_every = checkpoint_every
        self._rows = self._batches = self._passes = 0
        self._digest = Digest()

    def run(self) -> dict[str, Any]:
        """Read the passes that remain, and return the result that `learn` prints."""
        student = self._student
        with (
            student,
            MergedFile(self._out, student) as merged,
            Progress("learning") as progress,
        ):
            first = student.state_dict()["pass_index"]
            for _ in range(first, student.passes):
                batches = self._one_pass(merged, progress)
                if self._trainer is not None:
                    self._trainer(batches)
                # What the trainer left is read, too.
                for _ in batches:
                    pass
                if self._has_enough():
                    break
                merged.end_pass()
                self._save()
            # If the checkpoint was at the end already, an earlier commit may not have succeeded.
            student.commit()
            return self._result(progress.seconds, passes=student.passes - first)

    def _one_pass(self, merged: MergedFile, progress: Progress) -> Iterator[Batch]:
        for batch in self._student.knowledge(self._batch_size, drop_last=self._drop_last):
            self._digest.add(batch)
            size = len(next(iter(batch.values())))
            left = size if self._wanted_rows < 0 else max(0, self._wanted_rows - self._rows)
            _print_rows(batch, min(size, left))
            self._batches += 1
            self._rows += size
            merged.write(batch)
            progress.show(self._rows, self._batches, "batches")
            yield batch
            if self._batches % self._checkpoint_every == 0:
                self._save()
            if self._has_enough():
                return
        self._passes += 1

    def _has_enough(self) -> bool:
        return self._only_prints and self._rows >= self._wanted_rows

    def _save(self) -> None:
        if self._checkpoint is not None:
            self._student.save(self._checkpoint)

    def _result(self, seconds: float, *, passes: int) -> dict[str, Any]:
        """The result as plain values; `passes` is how many remained at the start."""
        student = self._student
        return {
            "keys": {spec.key: str(spec) for spec in student.description.specs},
            "passes": self._passes,
            "rows": self._rows,
            "batches": self._batches,
            "whole": self._passes == passes,
            "dropped": {
                kind: sum(teacher[kind] for teacher in student.dropped)
                for kind in ("duplicates", "zombies")
            },
            "longest_wait_s": round(student.stats.longest_wait_s, 3),
            "digest": self._digest.hexdigest(),
            "seconds": round(seconds, 3),
        }


def _print_rows(batch: Batch, count: int) -> None:
    """Print the first rows of a batch as JSON lines."""
    if not count:
        return
    columns = {key: values[:count].tolist() for key, values in batch.items()}
    say(*(as_json({key: values[row] for key, values in columns.items()}) for row in range(count)))
