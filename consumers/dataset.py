"""A student's merged batches as a torch IterableDataset, for training loops built on DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

# Every DataLoader worker seeds it. Imported in a forked worker, it sometimes failed in Python's own
# import lock (KeyError), and the worker died.
import numpy.random  # noqa: F401
from torch.utils.data import IterableDataset, get_worker_info

from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.worker_epochs import InWorker

if TYPE_CHECKING:
    from tutelage.consumers.delivery import KnowledgeIterator
    from tutelage.consumers.student import Student


class KnowledgeDataset(IterableDataset[Batch]):
    """A student's merged batches as a torch `IterableDataset`.

    Give it to `DataLoader(dataset, batch_size=None)`. `Student.dataset` makes one. No worker is
    needed: the student reads ahead in threads. With workers the first one reads; more are of no
    use.

    Guarantee: with any number of workers the loader gives the same batches in the same order as
    `Student.knowledge`, epoch after epoch. An epoch that was left early is given again from its
    beginning; it counts as read once its last batch has come to the main process.

    While workers read, the student in the main process does not know where they are: what asks it
    raises ConfigurationError.

    Args:
        student: The student; started before the first iteration.
        batch_size: Rows in a batch.
        drop_last: Leave out a last batch that is shorter.

    Raises:
        ConfigurationError: While iterating, as for `Student.knowledge`.
    """

    def __init__(self, student: Student, batch_size: int, *, drop_last: bool = False) -> None:
        super().__init__()
        self._student = student
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._loaded = False
        self._in_worker: InWorker | None = None

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            return _WhenAsked(self._student, self._batch_size, self._drop_last)
        if worker.id:
            return iter(())
        if self._in_worker is not None:
            # A worker that stays begins an epoch before it lets go of the one before.
            self._in_worker.close()
        loaded, self._loaded = self._loaded, False
        self._in_worker = InWorker(
            partial(
                self._student.knowledge_in_worker,
                self._batch_size,
                drop_last=self._drop_last,
                loaded=loaded,
            )
        )
        return self._in_worker

    def state_dict(self) -> dict[str, Any]:
        """Return the student's state behind the last batch, as torchdata's StatefulDataLoader asks.

        Returns:
            JSON-like values; empty in a worker that reads nothing.

        Raises:
            ConfigurationError: The student is not started, or workers read and this is the main
                process.
        """
        return self._student.state_dict() if _reads_here() else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: What `state_dict` returned.

        Raises:
            ConfigurationError: The number of teachers differs.
            CorruptData: It is no student's state.
        """
        if _reads_here():
            self._student.load_state_dict(state)
            # In the main process the student is moved; in a worker only this copy, for the epoch that it begins.
            self._loaded = get_worker_info() is not None


def _reads_here() -> bool:
    worker = get_worker_info()
    return worker is None or not worker.id


class _WhenAsked(Iterator[Batch]):
    """A pass of a student that is begun when its first batch is asked for."""

    def __init__(self, student: Student, batch_size: int, drop_last: bool) -> None:
        self._student = student
        self._batch_size = batch_size
        self._drop_last = drop_last
        self._batches: KnowledgeIterator | None = None
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        if self._batches is None:
            self._batches = self._student.knowledge(self._batch_size, drop_last=self._drop_last)
        return next(self._batches)

    def close(self) -> None:
        """End the pass, as leaving its loop does."""
        self._closed = True
        if self._batches is not None:
            self._batches.close()
