"""What DataLoader workers read of a student, noted where the main process and every worker see it.

A DataLoader starts its workers with copies of the student, and anew for each epoch. Without notes each copy would begin where the first
did. The first worker reads and gives all batches; the others end at once, since each of them would have to read the whole stream.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch.utils.data import get_worker_info

from tutelage.consumers.delivery import KnowledgeIterator
from tutelage.consumers.position import Position
from tutelage.consumers.progress import Progress
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.stages.batches import Batch
from tutelage.schemas.errors import ConfigurationError

# Notes, all of them 64-bit integers: how often the main process moved the student; the main process; the epoch that was begun last (0:
# none since the student was moved) and its pass; whether its worker has read it to its end; batches the worker sent; batches that came.
_GENERATION, _OWNER, _EPOCH, _PASS, _ENDED, _SENT, _CAME = range(7)
# Then the positions at which that pass begins, and at which the next one does, each behind their count (0: not known).
_BEGAN, _ROOM = 7, 2048
_FOLLOWING = _BEGAN + _ROOM

# A batch is on its way in a millisecond, unless somebody keeps it and sends something else instead.
_SETTLES_WITHIN_S = 1.0
# Between the queue from which torch takes a batch and whoever asked for it.
_FRAMES = 8

_in_this_process: weakref.WeakValueDictionary[int, WorkerEpochs] = weakref.WeakValueDictionary()


class WorkerEpochs:
    """Notes of the epochs that workers read, in shared memory.

    Guarantee: the next epoch reads the pass after one whose batches all came to the main process, and the same pass again after one
    that was left early. The student's place in the main process counts as long as no worker has begun since it was set.
    """

    def __init__(self) -> None:
        self._own(torch.zeros(_FOLLOWING + _ROOM, dtype=torch.int64))

    _last: weakref.ref[WorkerBatch] | None = None

    def _own(self, notes: torch.Tensor) -> None:
        self._shared: torch.Tensor = notes.clone().share_memory_()  # type: ignore[no-untyped-call]
        self._notes = self._shared.numpy()
        self._notes[_OWNER] = os.getpid()
        self._token = secrets.randbits(62)
        self._generation = int(self._notes[_GENERATION])
        _in_this_process[self._token] = self

    def __getstate__(self) -> tuple[torch.Tensor, int, int]:
        return self._shared, self._token, self._generation

    def __setstate__(self, state: tuple[torch.Tensor, int, int]) -> None:
        self._shared, self._token, self._generation = state
        if not self._shared.is_shared():  # type: ignore[no-untyped-call]
            # Copied, and not handed to a worker: from now on it has a life of its own.
            self._own(self._shared)
        self._notes = self._shared.numpy()
        _in_this_process[self._token] = self

    def here(self) -> WorkerEpochs:
        """These notes, or in another process than the one that made them, which is no worker, a copy of its own."""
        if self._notes[_OWNER] != os.getpid() and get_worker_info() is None:
            self._own(self._shared)
        return self

    @property
    def any(self) -> bool:
        """Whether workers have begun an epoch since the main process set the student's state."""
        return bool(self._notes[_EPOCH])

    @property
    def state(self) -> ResumeState:
        """Where the next epoch begins."""
        read = self._notes[_ENDED] and self._notes[_SENT] == self._notes[_CAME]
        positions = self._positions(_FOLLOWING if read else _BEGAN)
        return ResumeState(
            pass_index=int(self._notes[_PASS]) + bool(read), began=positions, positions=positions
        )

    def moved(self) -> None:
        """The main process set the student's place: workers that were started before have another."""
        self._generation += 1
        self._notes[_GENERATION] = self._generation
        self._notes[_EPOCH] = 0

    def refuse_others(self) -> None:
        """In a worker: ConfigurationError if its copy of the student is not that of the process that started it."""
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid != self._notes[_OWNER]:
            raise ConfigurationError(
                "this DataLoader was made in another process than its dataset; call student.dataset() in the process that makes the DataLoader"
            )
        if self._generation != self._notes[_GENERATION]:
            raise ConfigurationError(
                "the student went elsewhere (load, load_state_dict or knowledge in the main process) after these DataLoader workers were "
                "started, so they are at another place; make a new DataLoader, or leave persistent_workers out"
            )

    def begin(self, state: ResumeState) -> int:
        """In a worker: begin an epoch at a place; returns its number."""
        self._notes[_EPOCH] = 0
        self._notes[_PASS] = state.pass_index
        self._notes[_ENDED] = self._notes[_SENT] = self._notes[_CAME] = self._notes[_FOLLOWING] = 0
        self._note(_BEGAN, state.began)
        epoch = 1 + secrets.randbits(62)
        self._notes[_EPOCH] = epoch
        return epoch

    def end(self, epoch: int, following: ResumeState) -> None:
        """In a worker: the epoch's pass was read to its end, and the next one begins there."""
        self._settle()
        if self._notes[_EPOCH] == epoch:
            self._note(_FOLLOWING, following.positions)
            self._notes[_ENDED] = 1

    def made(self, batch: WorkerBatch) -> None:
        """In a worker: a batch is to be sent."""
        self._last = weakref.ref(batch)

    def _settle(self) -> None:
        """Wait until the last batch is on its way, which is up to a thread of torch's, or thrown away; not for long if it is kept."""
        until_s = time.monotonic() + _SETTLES_WITHIN_S
        while self._last is not None and (batch := self._last()) is not None and not batch.is_sent:
            del batch
            if time.monotonic() > until_s:
                return
            time.sleep(0.001)

    def sent(self, epoch: int) -> int:
        """In a worker: a batch is on its way. Returns what finds these notes in the main process."""
        self._notes[_SENT] += self._notes[_EPOCH] == epoch
        return self._token

    def came(self, epoch: int) -> None:
        """In the main process: a batch has come."""
        self._notes[_CAME] += self._notes[_EPOCH] == epoch

    def _note(self, at: int, positions: Sequence[Position] | None) -> None:
        numbers = [
            number
            for each in positions or ()
            for number in (
                each.pass_index,
                each.sequence,
                each.row,
                len(each.offsets),
                *each.offsets,
            )
        ]
        if positions and len(numbers) < _ROOM:
            self._notes[at + 1 : at + 1 + len(numbers)] = numbers
            self._notes[at] = len(positions)
        else:
            # Not known: reading begins at the run's first record and passes over earlier passes.
            self._notes[at] = 0

    def _positions(self, at: int) -> tuple[Position, ...] | None:
        count, numbers = int(self._notes[at]), iter(self._notes[at + 1 : at + _ROOM].tolist())
        found = []
        for _ in range(count):
            pass_index, sequence, row, partitions = (next(numbers) for _ in range(4))
            offsets = tuple(next(numbers) for _ in range(partitions))
            found.append(
                Position(pass_index=pass_index, sequence=sequence, row=row, offsets=offsets)
            )
        return tuple(found) or None


class WorkerBatch(Batch):
    """A batch in a worker, which becomes a plain dict in the main process and is counted there."""

    def __init__(self, batch: Batch, epochs: WorkerEpochs, epoch: int) -> None:
        super().__init__(batch)
        self._epochs, self._epoch = epochs, epoch
        self.is_sent = False
        epochs.made(self)

    def __copy__(self) -> WorkerBatch:
        return WorkerBatch(self, self._epochs, self._epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        token = self._epochs.sent(self._epoch)
        self.is_sent = True
        return _come, (dict(self), token, self._epoch)


class InWorker(Iterator[Batch]):
    """A pass of a student, read in a worker and noted for the epoch behind it.

    What cannot be begun raises at the first batch: torch hands on no other error of a worker that stays for the next epoch.
    """

    def __init__(self, begin: Callable[[], tuple[Iterator[Batch], Progress, WorkerEpochs]]) -> None:
        self._error: Exception | None = None
        self._batches: Iterator[Batch] = iter(())
        try:
            self._batches, self._progress, self._epochs = begin()
            self._epoch = self._epochs.begin(self._progress.state)
        except Exception as error:  # whatever it is, the main process must hear of it
            self._error = error

    def __next__(self) -> Batch:
        if self._error is not None:
            raise self._error
        try:
            return WorkerBatch(next(self._batches), self._epochs, self._epoch)
        except StopIteration:
            self._epochs.end(self._epoch, self._progress.state)
            raise

    def close(self) -> None:
        """End the pass, as leaving its loop does."""
        if isinstance(self._batches, KnowledgeIterator):
            self._batches.close()


def _come(batch: Batch, token: int, epoch: int) -> Batch:
    epochs = _in_this_process.get(token)
    if epochs is not None and not _is_thrown_away():
        epochs.came(epoch)
    return batch


def _is_thrown_away() -> bool:
    """Whether torch takes a batch from its queue only to get rid of it: an epoch begins, and workers stay that had sent more of the last."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name == "_reset":
            return True
        frame = frame.f_back
    return False
