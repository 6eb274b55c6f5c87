"""Where a student is, and who knows it: this process, a state that was loaded, or DataLoader workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from tutelage.consumers.place import Place
from tutelage.consumers.progress import Progress
from tutelage.schemas.errors import ConfigurationError, CorruptData

if TYPE_CHECKING:
    from tutelage.consumers.worker_epochs import WorkerEpochs


class Whereabouts:
    """A student's place: its progress in this process, unless a loaded state or DataLoader workers are ahead of that."""

    def __init__(self) -> None:
        self.progress = Progress()
        #: A state that was loaded, and that no iteration has begun from yet.
        self.saved: Mapping[str, Any] | None = None
        self._epochs: WorkerEpochs | None = None
        self._workers_have_read = False
        self._in_worker = False

    @property
    def place(self) -> Place:
        """Where the training loop in this process is: a copy, taken at one moment."""
        return self.progress.place

    @property
    def epochs(self) -> WorkerEpochs:
        """The notes that DataLoader workers share with this process."""
        if self._epochs is None:
            from tutelage.consumers.worker_epochs import WorkerEpochs

            self._epochs = WorkerEpochs()
        return self._epochs.here()

    @property
    def read_by_workers(self) -> bool:
        """Whether DataLoader workers read, so that only they know where the student is."""
        if self._epochs is not None and self._epochs.here().any and get_worker_info() is None:
            self._workers_have_read = True
            return True
        return False

    @property
    def workers_have_read(self) -> bool:
        """Whether DataLoader workers read or have read, so that what this process counts is not all there is."""
        return self.read_by_workers or self._workers_have_read

    def refuse_beside_workers(self, what: str, *, ever: bool = False) -> None:
        """ConfigurationError if this process does not know something because workers read, or with `ever` because they once did."""
        if self.workers_have_read if ever else self.read_by_workers:
            raise ConfigurationError(
                f"{what}: DataLoader workers read this student, so the main process does not know it; use num_workers=0 (the student reads "
                "ahead in threads), or torchdata's StatefulDataLoader and its state_dict"
            )

    def refuse_in_worker(self) -> None:
        """ConfigurationError in a DataLoader worker that iterates by itself: its copy of the student would begin anew each epoch."""
        if not self._in_worker and get_worker_info() is not None:
            raise ConfigurationError(
                "knowledge() in a DataLoader worker would begin anew each epoch; give the DataLoader student.dataset(batch_size), or ask for "
                "one pass with pass_index"
            )

    def enter_worker(self, *, loaded: bool) -> WorkerEpochs:
        """In a DataLoader worker: go to where the next epoch begins, unless a state was loaded in this worker."""
        epochs = self.epochs
        epochs.refuse_others()
        if epochs.any and not loaded:
            self.progress.go_to(epochs.place)
            self.saved = None
        self._in_worker = True
        return epochs

    def leave_workers(self) -> None:
        """In the main process: go to where DataLoader workers are, and tell those that are left that the student goes elsewhere now."""
        if self._epochs is not None and get_worker_info() is None:
            if self.read_by_workers:
                self.progress.go_to(self._epochs.place)
                self.saved = None
            self._epochs.moved()

    def load(self, state: Any, teachers: int) -> None:
        """Go on from a state. CorruptData if it is no student's, ConfigurationError if it is of another number of teachers."""
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
