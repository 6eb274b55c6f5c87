"""A student's passes for a trainer that fetches batches ahead of training -> the state behind those it trained on.

Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from tutelage import Student
from tutelage.schemas.errors import ConfigurationError

# A key that the student is asked for, and that no model sees.
_POSITION = "tutelage.position"


class TrainedPasses:
    """A student's batches, the rest of a pass each time it is iterated.

    Guarantee: an iteration goes on behind the last batch that was trained on, whatever was fetched
    and not trained on. If that batch was the last of its pass, the next pass is given.

    Args:
        student: Gives the batches.
        batch_size: As for `Student.dataset`.
        **options: As for `Student.dataset`, but for `position_key`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(self, student: Student, batch_size: int | None, **options: Any) -> None:
        self._student = student
        self._data = student.dataset(batch_size, **options, position_key=_POSITION)
        self._running: Generator[dict[str, Any], None, None] | None = None
        # Whether the pass was read to its end; how many batches were fetched, and where the last
        # of them ends.
        self._ended, self._count, self._fetched = True, 0, None
        # The state from which the iteration began, and where the last two batches end that were
        # taken for training since; None stands for that beginning.
        self._begun: dict[str, Any] = {}
        self._taken: list[Any] = [None]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the rest of a pass. Nothing happens before the first batch is asked for."""
        all_trained = self._ended and self._fetched == self._taken[-1]
        state = self.state()
        self.close()
        if not all_trained:
            self._student.load_state_dict(state)
        self._running = running = self._rest()
        yield from running

    def _rest(self) -> Generator[dict[str, Any], None, None]:
        self._begun, self._taken = self._student.state_dict(), [None]
        self._ended, self._count, self._fetched = False, 0, None
        # Behind a state at the end of a pass there is nothing in the first one.
        for _ in range(2):
            batches: Any = iter(self._data)
            try:
                for batch in batches:
                    self._count, self._fetched = self._count + 1, batch[_POSITION].tolist()
                    yield batch
            finally:
                batches.close()
            if self._count:
                break
        self._ended = True

    def take(self, batch: Any) -> None:
        """Note where a batch ends that is trained on next, and remove what says so from it.

        Args:
            batch: The batch. One of others' is left as it is.
        """
        if isinstance(batch, dict) and _POSITION in batch:
            self._taken = [self._taken[-1], batch.pop(_POSITION).tolist()]

    def state(self, *, under_way: bool = False) -> dict[str, Any]:
        """Return the student's state behind the last batch that was trained on.

        Args:
            under_way: Whether the last batch that was taken is not yet trained on to its end.

        Returns:
            JSON-like values; none before the first batch was asked for.

        Raises:
            ConfigurationError: Batches were fetched, and `take` saw none of them.
        """
        if self._count > 1 and self._taken[-1] is None:
            raise ConfigurationError(
                f"{self._count} batches were fetched, and it is not known which were trained on: a "
                "class that overrides on_before_batch_transfer must call it with the student's batch"
            )
        at = self._taken[0] if under_way else self._taken[-1]
        return dict(self._begun) if at is None else self._student.state_dict(at=at)

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: What `state` returned.

        Raises:
            ConfigurationError: Batches were fetched already, or it is of another number of
                teachers.
            CorruptData: It is no student's state.
        """
        if self._count and self._taken[-1] is None:
            raise ConfigurationError(
                "a batch was fetched before the checkpoint was loaded, and would be trained on; "
                "trainer.estimated_stepping_batches fetches one: give the number of steps yourself"
            )
        self._student.load_state_dict(state)
        self._begun, self._taken = dict(state), [None]
        self._ended, self._count, self._fetched = True, 0, None

    def close(self) -> None:
        """End the pass that is under way, and its threads."""
        if self._running is not None:
            self._running.close()
