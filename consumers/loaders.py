"""The part of `Student` that gives its batches to torch's and others' loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tutelage.consumers.batch_request import BatchRequest
from tutelage.consumers.settings import Settings
from tutelage.consumers.shuffle import Shuffle
from tutelage.consumers.sources.base import Source
from tutelage.consumers.state_keeper import StateKeeper

if TYPE_CHECKING:
    from tutelage.consumers.dataset import KnowledgeDataset
    from tutelage.consumers.stages.merge import Merge


class Loaders:
    """Gives a student's batches as a torch data set."""

    _settings: Settings
    _keeper: StateKeeper
    _sources: list[Source]

    if TYPE_CHECKING:

        def _merging(self) -> Merge: ...

    def pass_rows(self, pass_index: int = 0) -> int | None:
        """Return how many rows a pass has, those of all ranks, if that is known.

        It is known of complete files, and of the last pass of a run that is complete in its topic.
        Waits until every teacher's stream is there.

        Args:
            pass_index: The pass, from 0.

        Returns:
            The rows; None if the end of the pass is not there yet, or cannot be found without
            reading the topic.

        Raises:
            ConfigurationError: The student is not started.
            DataError: A file is damaged or incomplete.
            WaitTimeout: A teacher's stream did not appear in time.
        """
        self._merging()
        known = [source.pass_rows().get(pass_index) for source in self._sources]
        found = [rows for rows in known if rows is not None]
        if not found or (self._settings.truncates and len(found) < len(known)):
            return None
        # Teachers that differ in length are an error, unless the pass ends at the shortest.
        return min(found)

    def request_of(self, batch_size: int | None, **options: Any) -> BatchRequest:
        """For KnowledgeDataset: the arguments of `knowledge`, checked.

        Args:
            batch_size: As for `knowledge`.
            **options: As for `knowledge`.

        Returns:
            The request.

        Raises:
            ConfigurationError: An argument has the wrong type or value.
        """
        return self._settings.request(batch_size, **options)

    def dataset(
        self,
        batch_size: int | None = None,
        *,
        global_batch_size: int | None = None,
        drop_last: bool = False,
        weight_key: str | None = None,
        position_key: str | None = None,
        pad_empty: bool = False,
        shuffle: Shuffle | None = None,
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
            shuffle: Give the rows of files in a shuffled order.

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
            "shuffle": shuffle,
        }
        self.request_of(batch_size, **options)
        # Made before workers are, which share them.
        _ = self._keeper.epochs
        return KnowledgeDataset(self, batch_size, **options)
