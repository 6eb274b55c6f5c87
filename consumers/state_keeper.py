"""Keeps a student's state, which this process, a loaded state or DataLoader workers set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from tutelage.consumers.progress import Progress
from tutelage.schemas.errors import ConfigurationError, CorruptData

if TYPE_CHECKING:
    from tutelage.consumers.worker_epochs import WorkerEpochs


class StateKeeper:
    """Knows where a student is, or that only DataLoader workers know.

    It is the progress in this process, unless a state was loaded or DataLoader workers have read
    since then.
    """

    def __init__(self) -> None:
        self.progress = Progress()
        #: A state that was loaded, until an iteration begins from it.
        self.saved: Mapping[str, Any] | None = None
        #: How batches were asked for last in this process; empty before.
        self.requested: dict[str, Any] = {}
        self._epochs: WorkerEpochs | None = None
        self._workers_have_read = False
        self._in_worker = False

    @property
    def epochs(self) -> WorkerEpochs:
        """The notes that DataLoader workers share with this process."""
        if self._epochs is None:
            from tutelage.consumers.worker_epochs import WorkerEpochs

            self._epochs = WorkerEpochs()
        return self._epochs.here()

    @property
    def is_read_by_workers(self) -> bool:
        """Whether DataLoader workers read, so that only they know where the student is."""
        if self._epochs is not None and self._epochs.here().has_begun and get_worker_info() is None:
            self._workers_have_read = True
            return True
        return False

    @property
    def was_read_by_workers(self) -> bool:
        """Whether DataLoader workers read or have read, so that counts here are not complete."""
        return self.is_read_by_workers or self._workers_have_read

    def check_known_here(self, what: str, *, ever: bool = False) -> None:
        """Check that this process knows something, because no DataLoader worker reads.

        Args:
            what: What was asked for, for the message.
            ever: Whether it is not known either if workers once read.

        Raises:
            ConfigurationError: It is not known here.
        """
        if self.was_read_by_workers if ever else self.is_read_by_workers:
            raise ConfigurationError(
                f"{what}: DataLoader workers read this student, so the main process does not know "
                "it; use num_workers=0 (the student reads ahead in threads), or torchdata's "
                "StatefulDataLoader and its state_dict"
            )

    def check_no_worker(self) -> None:
        """Check that this is not a DataLoader worker that iterates on its own.

        Raises:
            ConfigurationError: It is: its copy of the student would begin anew each epoch.
        """
        if not self._in_worker and get_worker_info() is not None:
            raise ConfigurationError(
                "knowledge() in a DataLoader worker would begin anew each epoch; give the "
                "DataLoader student.dataset(batch_size), or ask for one pass with pass_index"
            )

    def enter_worker(self, *, loaded: bool) -> WorkerEpochs:
        """In a DataLoader worker: go to where the next epoch begins, unless it loaded a state."""
        epochs = self.epochs
        epochs.check_current()
        if epochs.has_begun and not loaded:
            self.progress.go_to(epochs.state)
            self.saved = None
        self._in_worker = True
        return epochs

    def leave_workers(self) -> None:
        """In the main process: go to where DataLoader workers are.

        Workers that are left are told that the student has moved on.
        """
        if self._epochs is not None and get_worker_info() is None:
            if self.is_read_by_workers:
                self.progress.go_to(self._epochs.state)
                self.saved = None
            self._epochs.reset()

    def load(self, state: Any, teachers: int) -> None:
        """Go on from a state.

        Raises:
            ConfigurationError: It is not a mapping, or of another number of teachers.
            CorruptData: It is not a student's.
        """
        if not isinstance(state, Mapping):
            raise ConfigurationError(f"the state is {state!r}; it must be what state_dict() gave")
        sources = state.get("sources")
        if not isinstance(sources, list) or not all(isinstance(part, Mapping) for part in sources):
            raise CorruptData("the state names no sources; it is no student's")
        if len(sources) != teachers:
            raise ConfigurationError(
                f"the checkpoint has {len(sources)} teachers, the student {teachers}"
            )
        self.leave_workers()
        self.saved = dict(state)
