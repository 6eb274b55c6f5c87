"""A student's batches -> the `training_step` of a Lightning module. Knows no loss."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from tutelage import Shuffle, Student
from tutelage.integrations.trained_passes import TrainedPasses
from tutelage.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
else:
    try:
        from lightning.pytorch import LightningDataModule
    except ModuleNotFoundError:
        from pytorch_lightning import LightningDataModule


class KnowledgeDataModule(LightningDataModule):
    """Lets a Lightning `Trainer` train on a student's batches; an epoch is a pass.

    Guarantee: a run that was killed and is resumed from a checkpoint trains on the batches that it
    would have trained on, each once: also from the middle of a pass, and with another number of
    ranks. An epoch that was left early, as with `limit_train_batches`, is followed by one that goes
    on behind it, up to the end of the pass.

    The batches are this rank's already, and Lightning does not shard them. Checkpoints hold the
    student's state behind the last batch that was trained on, although Lightning fetches a batch
    ahead. Validation needs a subclass with `val_dataloader`: beside a data module, Lightning does
    not ask the model for loaders.

    Args:
        student: Gives the batches. It must be started; under several ranks made with
            `shard="auto"`.
        batch_size: As for `Student.knowledge`; so are all others.
        global_batch_size: Rows in a batch of all ranks together.
        drop_last: Leave out a last batch that is shorter.
        weight_key: Add the weights of rows under this key.
        pad_empty: Give a row of weight 0 in place of a batch without rows. A `training_step` that
            cannot take a batch without rows needs it.
        shuffle: Give the rows of files in a shuffled order.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        student: Student,
        batch_size: int | None = None,
        *,
        global_batch_size: int | None = None,
        drop_last: bool = False,
        weight_key: str | None = None,
        pad_empty: bool = False,
        shuffle: Shuffle | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self._loaded = False
        self._passes = TrainedPasses(
            student,
            batch_size,
            global_batch_size=global_batch_size,
            drop_last=drop_last,
            weight_key=weight_key,
            pad_empty=pad_empty,
            shuffle=shuffle,
            under_way=self._is_under_way,
        )

    def setup(self, stage: str) -> None:
        """Check that the student is this rank's, and find the length of a pass.

        Raises:
            ConfigurationError: It is of another rank, or `training_step` takes the loader itself.
        """
        if stage != "fit" or (trainer := self.trainer) is None:
            return
        # The ranks that get different data. With tensor parallelism these are not all ranks.
        found = trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        self._passes.check_rank(found["rank"], found["num_replicas"])
        length = self._passes.pass_length()
        # In a topic an end may come between the ranks' looks; all must see the same.
        known = trainer.strategy.reduce_boolean_decision(length is not None)
        self._passes.fix_length(length if known else None)
        taken = inspect.signature(trainer.lightning_module.training_step).parameters
        if "dataloader_iter" in taken:
            raise ConfigurationError(
                "training_step takes dataloader_iter, so what it has trained on is not known; let "
                "it take a batch"
            )

    def train_dataloader(self) -> Any:
        """Return the student's batches: one pass each time it is iterated."""
        return self._passes

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Note where a batch ends that is trained on next. A class that overrides it calls it.

        Raises:
            ConfigurationError: Training is resumed from a checkpoint without a student's state.
        """
        resumed = self.trainer.ckpt_path if self.trainer and self.trainer.training else None
        if resumed and not self._loaded:
            raise ConfigurationError(
                f"{resumed} has no state of a {type(self).__qualname__}, so it is not "
                "known where its training stopped; load only the weights of it, without ckpt_path"
            )
        self._passes.take(batch)
        return super().on_before_batch_transfer(batch, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """Return the student's state behind the last batch that was trained on.

        Lightning keeps it in its checkpoints. It is the same on all ranks.

        Returns:
            JSON-like values.

        Raises:
            ConfigurationError: Batches were trained on that `on_before_batch_transfer` has not
                seen.
        """
        return self._passes.state_dict()

    def _is_under_way(self) -> bool:
        """Whether the last batch was handed to `training_step`, which has not ended."""
        if (trainer := self.trainer) is None:
            return False
        progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        return bool(progress.ready > progress.processed)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state. Lightning calls it when it loads a checkpoint.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            ConfigurationError: Batches were fetched already, or it is of another number of
                teachers.
            CorruptData: It is no student's state.
        """
        self._passes.load_state_dict(state_dict)
        self._loaded = True

    def teardown(self, stage: str) -> None:
        """End the pass that is under way, and its threads. Lightning calls it."""
        self._passes.close()
