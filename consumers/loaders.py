"""The part of `Student` that gives its batches to torch's and others' loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage.consumers.settings import Settings
from tutelage.consumers.state_keeper import StateKeeper

if TYPE_CHECKING:
    from tutelage.consumers.dataset import KnowledgeDataset


class Loaders:
    """Gives a student's batches as a torch data set."""

    _settings: Settings
    _keeper: StateKeeper

    def dataset(
        self,
        batch_size: int | None = None,
        *,
        global_batch_size: int | None = None,
        drop_last: bool = False,
        weight_key: str | None = None,
        position_key: str | None = None,
        pad_empty: bool = False,
    ) -> KnowledgeDataset:
        """Return the same batches as a torch `IterableDataset`, one pass each time it is iterated.

        Give it to `DataLoader(dataset, batch_size=None)`.

        Args:
            batch_size: As for `knowledge`; so are all others.
            global_batch_size: Rows in a batch of all ranks together.
            drop_last: Leave out a last batch that is shorter.
            weight_key: Add the weights of rows under this key.
            position_key: Add where the batch ends under this key.
            pad_empty: Give a row of weight 0 in place of a batch without rows.

        Returns:
            The data set.

        Raises:
            ConfigurationError: An argument has the wrong type or value.
        """
        from tutelage.consumers.dataset import KnowledgeDataset
        from tutelage.consumers.student import Student

        assert isinstance(self, Student), "it is a part of Student"
        options: dict[str, Any] = {
            "global_batch_size": global_batch_size,
            "drop_last": drop_last,
            "weight_key": weight_key,
            "position_key": position_key,
            "pad_empty": pad_empty,
        }
        self._settings.request(batch_size, **options)
        # Made before workers are, which share them.
        _ = self._keeper.epochs
        return KnowledgeDataset(self, batch_size, **options)
