"""A student's merged batches as a torch IterableDataset, for training loops built on DataLoader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch.utils.data import IterableDataset, get_worker_info

from tutelage.consumers.batches import Batch

if TYPE_CHECKING:
    from tutelage.consumers.student import Student


class KnowledgeDataset(IterableDataset[Batch]):
    """Yields merged batches; give it to `DataLoader(dataset, batch_size=None)`.

    Guarantee: with any number of workers the loader gives the same batches in the same order as `Student.knowledge`: each of W
    workers reads the stream and yields every W-th batch, which the loader takes in turn. One worker is enough to overlap reading with
    training; the student itself reads ahead in threads, so none is needed. `state_dict` is what StatefulDataLoader asks for.
    """

    def __init__(self, student: Student, batch_size: int, *, drop_last: bool = False) -> None:
        super().__init__()
        self._student = student
        self._batch_size = batch_size
        self._drop_last = drop_last

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        # What a worker gives is moved to shared memory, with all of the memory it is a view of.
        batches = self._student.knowledge(self._batch_size, drop_last=self._drop_last, own_memory=worker is not None)
        if worker is None:
            yield from batches
        else:
            # Resumed in the middle of a pass, the next batch of this worker's is not its first.
            first = (worker.id - self._student.batches_delivered) % worker.num_workers
            yield from islice(batches, first, None, worker.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """The student's state, behind the last batch yielded here."""
        return self._student.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._student.load_state_dict(state)
