"""What DataLoader workers have read of a student, in memory that all processes share.

A DataLoader starts its workers with copies of the student, and starts them again for each epoch.
Without shared notes each copy would begin where the first one did. The first worker reads and gives
all batches. The others end at once, because each of them would have to read the whole stream.
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

# The shared notes are 64-bit integers at these indices: how often the main process moved the
# student; the id of the main process; the id of the last epoch that began (0 if none did since the
# student was moved); its pass; whether its worker read it to the end; batches the worker sent;
# batches that arrived.
_MOVES, _OWNER, _EPOCH, _PASS, _ENDED, _SENT, _ARRIVED = range(7)
# They are followed by the positions at which this pass begins, and at which the next one does. Each
# list is preceded by its length (0 if the positions are not known).
_BEGAN, _ROOM = 7, 2048
_NEXT = _BEGAN + _ROOM

# A batch is sent within a millisecond, unless a program keeps it and sends something else instead.
_SENT_WITHIN_S = 1.0
# The number of stack frames to search, from the queue where torch receives a batch to its caller.
_FRAMES = 8

# Token -> notes, for batches that arrive in the main process.
_in_this_process: weakref.WeakValueDictionary[int, WorkerEpochs] = weakref.WeakValueDictionary()


class WorkerEpochs:
    """Shared notes of the epochs that workers read.

    Guarantee: after an epoch whose batches all arrived in the main process, the next epoch reads
    the next pass. After an epoch that was left early, the same pass is read again. A position that
    the main process set is used until a worker begins an epoch from it.
    """

    def __init__(self) -> None:
        self._own(torch.zeros(_NEXT + _ROOM, dtype=torch.int64))

    # The last batch that the worker created.
    _last: weakref.ref[WorkerBatch] | None = None

    def _own(self, notes: torch.Tensor) -> None:
        """Copy notes to new shared memory that belongs to this process."""
        self._shared: torch.Tensor = notes.clone().share_memory_()  # type: ignore[no-untyped-call]
        self._notes = self._shared.numpy()
        self._notes[_OWNER] = os.getpid()
        self._token = secrets.randbits(62)
        self._moves = int(self._notes[_MOVES])
        _in_this_process[self._token] = self

    def __getstate__(self) -> tuple[torch.Tensor, int, int]:
        return self._shared, self._token, self._moves

    def __setstate__(self, state: tuple[torch.Tensor, int, int]) -> None:
        self._shared, self._token, self._moves = state
        if not self._shared.is_shared():  # type: ignore[no-untyped-call]
            # The student was copied, not passed to a worker, so the copy gets its own notes.
            self._own(self._shared)
        self._notes = self._shared.numpy()
        _in_this_process[self._token] = self

    def here(self) -> WorkerEpochs:
        """Return these notes; copied first if this process is neither their owner nor a worker."""
        if self._notes[_OWNER] != os.getpid() and get_worker_info() is None:
            self._own(self._shared)
        return self

    @property
    def has_begun(self) -> bool:
        """Whether workers have begun an epoch since the main process set the student's state."""
        return bool(self._notes[_EPOCH])

    @property
    def state(self) -> ResumeState:
        """Where the next epoch begins."""
        complete = self._notes[_ENDED] and self._notes[_SENT] == self._notes[_ARRIVED]
        positions = self._read_positions(_NEXT if complete else _BEGAN)
        return ResumeState(
            pass_index=int(self._notes[_PASS]) + bool(complete),
            began=positions,
            positions=positions,
        )

    def reset(self) -> None:
        """Note that the main process moved the student, so earlier workers are out of date."""
        self._moves += 1
        self._notes[_MOVES] = self._moves
        self._notes[_EPOCH] = 0

    def check_current(self) -> None:
        """Check, in a worker, that its copy of the student is up to date.

        Raises:
            ConfigurationError: The worker belongs to another process, or the student was moved
                since the worker was started.
        """
        parent = multiprocessing.parent_process()
        if parent is None or parent.pid != self._notes[_OWNER]:
            raise ConfigurationError(
                "this DataLoader was made in another process than its dataset; call "
                "student.dataset() in the process that makes the DataLoader"
            )
        if self._moves != self._notes[_MOVES]:
            raise ConfigurationError(
                "the student was moved (by load, load_state_dict or knowledge in the main process) "
                "after these DataLoader workers were started, so they are at another position; "
                "make a new DataLoader, or leave persistent_workers out"
            )

    def begin(self, state: ResumeState) -> int:
        """Begin an epoch at a state, in a worker; returns the epoch's id."""
        self._notes[_EPOCH] = 0
        self._notes[_PASS] = state.pass_index
        self._notes[_ENDED] = self._notes[_SENT] = self._notes[_ARRIVED] = self._notes[_NEXT] = 0
        self._write_positions(_BEGAN, state.began)
        epoch = 1 + secrets.randbits(62)
        self._notes[_EPOCH] = epoch
        return epoch

    def end(self, epoch: int, next_pass: ResumeState) -> None:
        """Note, in a worker, that a pass was read to its end, and where the next one begins."""
        self._wait_until_sent()
        if self._notes[_EPOCH] == epoch:
            self._write_positions(_NEXT, next_pass.positions)
            self._notes[_ENDED] = 1

    def created(self, batch: WorkerBatch) -> None:
        """Note, in a worker, that a batch will be sent."""
        self._last = weakref.ref(batch)

    def _wait_until_sent(self) -> None:
        """Wait until a thread of torch's has sent the last batch, or the batch was dropped.

        A batch that the program keeps is not waited for long.
        """
        until_s = time.monotonic() + _SENT_WITHIN_S
        while self._last is not None and (batch := self._last()) is not None and not batch.is_sent:
            del batch
            if time.monotonic() > until_s:
                return
            time.sleep(0.001)

    def sent(self, epoch: int) -> int:
        """Count a batch that a worker sends. Returns the token of these notes."""
        self._notes[_SENT] += self._notes[_EPOCH] == epoch
        return self._token

    def arrived(self, epoch: int) -> None:
        """Count a batch that arrived in the main process."""
        self._notes[_ARRIVED] += self._notes[_EPOCH] == epoch

    def _write_positions(self, at: int, positions: Sequence[Position] | None) -> None:
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
            # Not known: reading begins at the run's first record and skips earlier passes.
            self._notes[at] = 0

    def _read_positions(self, at: int) -> tuple[Position, ...] | None:
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
    """A batch in a worker. In the main process it becomes a plain dict, and is counted."""

    def __init__(self, batch: Batch, epochs: WorkerEpochs, epoch: int) -> None:
        super().__init__(batch)
        self._epochs, self._epoch = epochs, epoch
        self.is_sent = False
        epochs.created(self)

    def __copy__(self) -> WorkerBatch:
        return WorkerBatch(self, self._epochs, self._epoch)

    def __reduce__(self) -> tuple[Any, ...]:
        token = self._epochs.sent(self._epoch)
        self.is_sent = True
        return _receive, (dict(self), token, self._epoch)


class WorkerPass(Iterator[Batch]):
    """A pass of a student that is read in a worker and noted for the next epoch.

    If the pass cannot begin, the error is raised at the first batch, because torch passes on no
    other error from a persistent worker.

    Args:
        begin: Starts the pass.
    """

    def __init__(self, begin: Callable[[], tuple[Iterator[Batch], Progress, WorkerEpochs]]) -> None:
        self._error: Exception | None = None
        self._batches: Iterator[Batch] = iter(())
        try:
            self._batches, self._progress, self._epochs = begin()
            self._epoch = self._epochs.begin(self._progress.state)
        except Exception as error:  # the main process must see it, whatever it is
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
        """End the pass and its threads."""
        if isinstance(self._batches, KnowledgeIterator):
            self._batches.close()


def _receive(batch: Batch, token: int, epoch: int) -> Batch:
    """Count a batch that was unpickled in the main process."""
    epochs = _in_this_process.get(token)
    if epochs is not None and not _is_discarded():
        epochs.arrived(epoch)
    return batch


def _is_discarded() -> bool:
    """Whether torch receives a batch only to discard it.

    It does so when an epoch begins and persistent workers had sent more batches of the last one.
    """
    frame: FrameType | None = sys._getframe(2)
    for _ in range(_FRAMES):
        if frame is None:
            return False
        if frame.f_code.co_name == "_reset":
            return True
        frame = frame.f_back
    return False
