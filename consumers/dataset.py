"""A student's merged batches as a torch IterableDataset, for training loops built on DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

# Every DataLoader worker seeds it. Imported in a forked worker, it sometimes failed in Python's own
# import lock (KeyError), and the worker died.
import numpy.random  # noqa: F401
import torch
from torch.utils.data import IterableDataset, get_worker_info

from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.worker_epochs import WorkerPass
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from tutelage.consumers.delivery import KnowledgeIterator
    from tutelage.consumers.student import Student


class KnowledgeDataset(IterableDataset[Batch]):
    """A student's merged batches as a torch `IterableDataset`.

    Pass it to `DataLoader(dataset, batch_size=None)`. `Student.dataset` creates one. No worker is
    needed, because the student reads ahead in threads. With workers, only the first one reads; more
    have no effect.

    Guarantee: with any number of workers the loader gives the same batches in the same order as
    `Student.knowledge`, epoch after epoch. An epoch that was left early is repeated from its
    beginning. An epoch is complete once its last batch has arrived in the main process.

    Its length is the number of batches of one pass, where the student knows it; else `len` raises
    TypeError. `set_epoch(n)` has the next iteration give pass n, counted round, and shuffles passes
    that are given again anew; without it each iteration gives the next pass, in one order.

    While workers read, the student in the main process does not know their position: properties and
    methods that need it raise ConfigurationError.

    Args:
        student: The student; must be started before the first iteration.
        batch_size: Rows in a batch.
        **options: As for `Student.dataset`.

    Raises:
        ConfigurationError: An argument has the wrong type or value. While iterating, as for
            `Student.knowledge`.
    """

    def __init__(self, student: Student, batch_size: int | None = None, **options: Any) -> None:
        super().__init__()
        self._student = student
        self._options = {"batch_size": batch_size, **options}
        # Shared with workers, of which persistent ones hear of later epochs only so; -1 if not set.
        epoch = torch.full((1,), -1, dtype=torch.int64)
        self._epoch: torch.Tensor = epoch.share_memory_()  # type: ignore[no-untyped-call]
        self._loaded = False
        self._worker_pass: WorkerPass | None = None

    def set_epoch(self, epoch: int) -> None:
        """Have the next iterations give the pass of this epoch. Some trainers call it.

        Args:
            epoch: The epoch, from 0. Behind the last pass, the first one is next.

        Raises:
            ConfigurationError: It is not a whole number, from 0.
        """
        self._epoch[0] = check_whole_number("epoch", epoch, least=0)

    def __len__(self) -> int:
        student = self._student
        index = self._pass_of_epoch()
        if index is None:
            # Workers do not say which pass they are in; most runs have passes of one length.
            given = 0 if student.read_by_workers else student.state_dict()["pass_index"]
            index = given % student.passes
        rows = student.pass_rows(index)
        if rows is None:
            raise TypeError(
                f"the length of pass {index} is not known before its end has come; give the "
                "trainer a number of steps, such as max_steps"
            )
        request = student.request_of(**self._options)
        whole, rest = divmod(rows, request.batch_size)
        return whole + (rest > 0 and not request.drop_last)

    def _pass_of_epoch(self) -> int | None:
        epoch = int(self._epoch)
        return None if epoch < 0 else epoch % self._student.passes

    def _begin(self) -> KnowledgeIterator:
        options, shuffle = self._options, self._options.get("shuffle")
        if shuffle is not None and int(self._epoch) >= 0:
            # Passes that are given again have another order then.
            seed = (shuffle.seed + int(self._epoch) // self._student.passes) % 2**63
            options = {**options, "shuffle": replace(shuffle, seed=seed)}
        return self._student.knowledge(**options, pass_index=self._pass_of_epoch())

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker is None:
            return _LazyPass(self._begin)
        if worker.id:
            return iter(())
        if self._options.get("shuffle") is not None:
            raise ConfigurationError(
                "a student shuffles in the main process: use num_workers=0 (it reads ahead in a "
                "thread), or give the DataLoader a KnowledgeFile"
            )
        if self._worker_pass is not None:
            # A persistent worker begins an epoch before it drops the iterator of the last one.
            self._worker_pass.close()
        loaded, self._loaded = self._loaded, False
        self._worker_pass = WorkerPass(
            partial(
                self._student.knowledge_in_worker,
                loaded=loaded,
                pass_index=self._pass_of_epoch(),
                **self._options,
            )
        )
        return self._worker_pass

    def state_dict(self) -> dict[str, Any]:
        """Return the student's state behind the last batch, for torchdata's StatefulDataLoader.

        Returns:
            JSON-like values; empty in a worker that does not read.

        Raises:
            ConfigurationError: The student is not started, or workers read and this is the main
                process.
        """
        return self._student.state_dict() if _reads_here() else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state.

        Args:
            state: What `state_dict` returned.

        Raises:
            ConfigurationError: The number of teachers differs.
            CorruptData: It is not a student's state.
        """
        if _reads_here():
            self._student.load_state_dict(state)
            # In the main process this moves the student. In a worker it moves only the copy there,
            # for the epoch that it begins.
            self._loaded = get_worker_info() is not None


def _reads_here() -> bool:
    """Whether this is the main process or the worker that reads."""
    worker = get_worker_info()
    return worker is None or not worker.id


class _LazyPass(Iterator[Batch]):
    """A pass of a student that begins when its first batch is requested.

    Args:
        begin: Begins it.
    """

    def __init__(self, begin: Callable[[], KnowledgeIterator]) -> None:
        self._begin = begin
        self._batches: KnowledgeIterator | None = None
        self._closed = False

    def __next__(self) -> Batch:
        if self._closed:
            raise StopIteration
        if self._batches is None:
            self._batches = self._begin()
        return next(self._batches)

    def close(self) -> None:
        """End the pass and its threads."""
        self._closed = True
        if self._batches is not None:
            self._batches.close()
