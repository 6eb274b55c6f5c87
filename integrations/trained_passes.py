"""A student's passes for a trainer that fetches ahead -> the state behind what it trained on.

Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

from tutelage import Student
from tutelage.schemas.errors import ConfigurationError

# A key that the student is asked for, and that no model sees.
_POSITION = "tutelage.position"


class TrainedPasses:
    """A student's batches, the rest of a pass each time it is iterated.

    Guarantee: an iteration goes on behind the last batch that was trained on, whatever was fetched
    and not trained on. If that batch was the last of its pass, the next pass is given.

    A trainer saves it and loads it as any loader that has a state. It has a length once
    `fix_length` was told one.

    Args:
        student: Gives the batches.
        batch_size: As for `Student.dataset`.
        under_way: Says whether the last batch that was taken is not yet trained on to its end.
        **options: As for `Student.dataset`, but for `position_key`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        student: Student,
        batch_size: int | None,
        *,
        under_way: Callable[[], bool],
        **options: Any,
    ) -> None:
        self._student = student
        self._under_way = under_way
        self._data = student.dataset(batch_size, **options, position_key=_POSITION)
        self._length: int | None = None
        self._running: Iterator[dict[str, Any]] = iter(())
        # Whether the pass was read to its end; how many batches were fetched, and where the last
        # of them ends.
        self._ended, self._count = True, 0
        self._fetched: list[int] | None = None
        # The state from which the iteration began, and where the last two batches end that were
        # taken for training since; None stands for that beginning.
        self._begun: dict[str, Any] | None = None
        self._taken: list[list[int] | None] = [None]

    def check_rank(self, rank: int, ranks: int) -> None:
        """Check that the student is the rank that trains on its batches.

        Args:
            rank: The rank among those that train on different data, from 0.
            ranks: How many there are.

        Raises:
            ConfigurationError: It is of another rank.
        """
        shard = self._student.shard
        if (shard.rank, shard.ranks) != (rank, ranks):
            raise ConfigurationError(
                f"this is rank {rank} of {ranks} that train on different data, and the student is "
                f'rank {shard.rank} of {shard.ranks}; make it with Student(shard="auto"), or with '
                "the dimension of the device mesh over which data are parallel"
            )

    def pass_length(self) -> int | None:
        """Return how many batches the pass has, if that is known. Waits for the teachers."""
        try:
            return len(self._data)
        except TypeError:
            return None

    def fix_length(self, batches: int | None) -> None:
        """Have this length from now on.

        Args:
            batches: How many batches a pass has; None if it is not known on all ranks.
        """
        self._length = batches

    def __len__(self) -> int:
        if self._length is None:
            raise TypeError("how many batches a pass has is not known before it has ended")
        return self._length

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the rest of a pass. Nothing happens before the first batch is asked for."""
        batch = None
        if self._fetched == self._trained:
            # Nothing was fetched in vain: the same pass goes on, unless this is its end.
            batch = next(self._running, None)
        if batch is None:
            self._begin()
            batch = next(self._running, None)
        while batch is not None:
            yield batch
            batch = next(self._running, None)

    def _begin(self) -> None:
        """Begin behind what was trained on."""
        state = None if self._ended and self._fetched == self._trained else self.state_dict()
        self.close()
        if state is not None:
            self._student.load_state_dict(state)
        self._begun, self._taken = self._student.state_dict(), [None]
        self._ended, self._count, self._fetched = False, 0, None
        self._running = self._rest()

    def _rest(self) -> Generator[dict[str, Any], None, None]:
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

    @property
    def _trained(self) -> list[int] | None:
        """Where the last batch ends that was trained on; None if it was before the iteration."""
        return self._taken[0] if self._under_way() else self._taken[-1]

    def state_dict(self) -> dict[str, Any]:
        """Return the student's state behind the last batch that was trained on.

        Returns:
            JSON-like values.

        Raises:
            ConfigurationError: Batches were fetched, and `take` saw none of them.
        """
        if self._count > 1 and self._taken[-1] is None:
            raise ConfigurationError(
                f"{self._count} batches were fetched, and it is not known which were trained on: a "
                "class that overrides on_before_batch_transfer must call it with the student's "
                "batch"
            )
        at = self._trained
        if at is None and self._begun is not None:
            return dict(self._begun)
        return self._student.state_dict(at=at)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Args:
            state: What `state_dict` returned.

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
        self.close()
        self._student.load_state_dict(state)
        self._begun, self._taken = dict(state), [None]
        self._ended, self._count, self._fetched = True, 0, None

    def close(self) -> None:
        """End the pass that is under way, and its threads."""
        if isinstance(self._running, Generator):
            self._running.close()
