"""Distillation with the `Trainer` of Hugging Face's `transformers`.

A student's batches enter, with the model and the settings of a `Trainer`. Knows no teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments

from tutelage import Shuffle, SparseTarget, Student, losses
from tutelage.integrations.texts_apart import COMPARED_TOKENS, are_equal
from tutelage.integrations.tokenizer_fingerprint import TokenizerCheck
from tutelage.integrations.trainer_checkpoints import STATE_NAME, StudentCallback, last_checkpoint
from tutelage.integrations.trainer_passes import POSITION, passes
from tutelage.integrations.trainer_settings import settle, shifts_labels
from tutelage.integrations.training_batch import TrainingBatch
from tutelage.schemas.arguments import check_real_number, check_whole_number
from tutelage.schemas.errors import ConfigurationError

__all__ = ["KnowledgeTrainer", "KnowledgeTrainerMixin", "last_checkpoint"]

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class KnowledgeTrainerMixin(_Base):
    """Makes a `Trainer` train on a student's batches: `class Mine(KnowledgeTrainerMixin, Trainer)`.

    Guarantee: a run that was killed and is resumed from its last checkpoint trains on the batches
    that it would have trained on, each once. Losses are means over the positions of all ranks and
    of all batches that are accumulated, as if one rank had them in one batch.

    The loss is `alpha` times the divergence from the teacher, plus `1 - alpha` times the
    cross-entropy of the labels. Evaluation is the Trainer's own, on `eval_dataset`.

    The batch size is that of `TrainingArguments`: `per_device_train_batch_size` rows a rank.
    `dataloader_drop_last` leaves out a shorter last batch. The settings that training on a student
    needs, such as `ignore_data_skip`, are made here.

    Args:
        model: As for `Trainer`.
        args: As for `Trainer`. `max_steps` says how long to train, or `num_train_epochs` where the
            rows of a pass are known. The passes follow each other without a break: gradients are
            accumulated over their ends.
        student: Gives the batches. It must be started; under several ranks made with
            `shard="auto"`.
        key: The key of the teacher's logits.
        mask_key: A key of the teacher, if it has it, `[rows, T]`, that is nonzero where a position
            counts. By default the one of `CausalLMTeacher`.
        loss: `losses.forward_kl`, `losses.reverse_kl`, `losses.jsd`, or a function that takes the
            model's logits, the teacher's, and `mask`, `temperature` and `reduction="sum"`, and
            returns a sum over positions.
        temperature: As for the loss.
        alpha: The share of the divergence in the loss, from 0 to 1. The rest is the cross-entropy of
            the labels: those under `labels`, or else the next tokens.
        vocabulary: How many ids the tokenizer has, `len(tokenizer)`, if the model's head is padded
            with more rows. Neither loss sees them. If not given, all rows are ids.
        tokenizer: The fingerprint of the student's tokenizer (`tokenizer_fingerprint`), which all
            teachers of the logits must have named. None for that of `processing_class`, which is
            compared where a teacher named one. Dense logits name none.
        shuffle: Gives the rows of files in a shuffled order, another in each pass. Passes that are
            given again are shuffled anew.
        rows: Rows of a pass. If not given, what the student knows: those of complete files. An
            epoch is a pass where they are known.
        **options: As for `Trainer`, but for `train_dataset`.

    Raises:
        ConfigurationError: An argument is not what it must be, or a setting of `args` cannot hold
            for a student's batches.
    """

    # The loss is a mean over everything that is accumulated.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        *,
        student: Student,
        key: str = "logits",
        mask_key: str = "kept",
        loss: Callable[..., torch.Tensor] = losses.forward_kl,
        temperature: float | None = None,
        alpha: float = 1.0,
        vocabulary: int | None = None,
        tokenizer: str | None = None,
        shuffle: Shuffle | None = None,
        rows: int | None = None,
        **options: Any,
    ) -> None:
        if options.get("train_dataset") is not None:
            raise ConfigurationError("train_dataset is not used: the student gives the batches")
        self._alpha = check_real_number("alpha", alpha)
        if not 0 <= self._alpha <= 1:
            raise ConfigurationError(f"alpha is {alpha!r}; it must be from 0 to 1")
        self.student = student
        self._keys: dict[str, Any] = {"key": key, "mask_key": mask_key}
        self._loss, self._temperature = loss, temperature
        self._vocabulary = (
            None if vocabulary is None else check_whole_number("vocabulary", vocabulary)
        )
        # The callback comes first, so that one that uploads a checkpoint finds the file.
        options["callbacks"] = [StudentCallback(self), *(options.get("callbacks") or ())]
        super().__init__(model, args, **options)
        self._tokenizers = TokenizerCheck(tokenizer, self.processing_class, self._vocabulary)
        self._is_packing_checked = False
        #: How many batches a pass has, if that is known.
        self.pass_batches = settle(self, rows)
        self._promised_batches = None if rows is None else self.pass_batches
        self._shuffle = shuffle
        self._batches: Generator[dict[str, Any], None, None] | None = None
        self._counts = torch.ones(2)
        #: Where the last batch that was trained on ends; None before the first.
        self.trained_to: torch.Tensor | None = None

    def get_train_dataloader(self) -> Any:
        """Return the student's batches, pass after pass.

        They are this rank's already, so accelerate must not shard them. Iterated again, they go on:
        the Trainer does so at the end of a pass.
        """
        self._close()
        self._batches = self._passes()
        return self._batches

    def _passes(self) -> Generator[dict[str, Any], None, None]:
        """Give batches, unless a finished run is resumed."""
        if self.state.global_step < self.state.max_steps:
            yield from passes(
                self.student,
                batch_size=self.args.train_batch_size,
                drop_last=self.args.dataloader_drop_last,
                shuffle=self._shuffle,
                pass_batches=self._promised_batches,
                **self._keys,
            )

    def _close(self) -> None:
        """End a pass that was left, and its threads."""
        if self._batches is not None:
            self._batches.close()

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train, as `Trainer.train`.

        Args:
            resume_from_checkpoint: A checkpoint's folder; or True for the last one in `output_dir`
                that is whole. One that was being written when the run was killed is not.
            trial: As for `Trainer.train`.
            ignore_keys_for_eval: Likewise.

        Returns:
            What `Trainer.train` returns.

        Raises:
            ConfigurationError: There is no such checkpoint.
            RunMismatch: It is of other teachers or another batch size.
        """
        folder = resume_from_checkpoint
        if folder is True:
            folder = last_checkpoint(self.args.output_dir or "")
            if folder is None:
                raise ConfigurationError(
                    f"{self.args.output_dir} has no whole checkpoint (checkpoint-N with "
                    f"{STATE_NAME}) to resume from; train without resume_from_checkpoint"
                )
        if folder:
            self.student.load(Path(folder) / STATE_NAME)
        try:
            return super().train(folder, trial, ignore_keys_for_eval)
        finally:
            self._close()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Return the batches of a step, and how many positions count in those of all ranks."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        counts = sum(
            (self._read(batch).counts(labelled=self._alpha < 1) for batch in batches),
            torch.zeros(2, dtype=torch.int64),
        ).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, "sum")
            counts = counts * self.student.shard.ranks // self.args.world_size
        self._counts = counts.clamp(min=1)
        return batches, self._counts[0]

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Train on one batch, as `Trainer.training_step`, and note where it ends."""
        position = inputs.pop(POSITION)
        for key, value in inputs.items():
            if isinstance(value, SparseTarget):
                inputs[key] = value.to(self.args.device)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.trained_to = position
        return loss

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Return the loss of one batch: its share in the mean over all that is accumulated."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        batch = self._read(inputs)
        target = batch.target
        self._tokenizers.check(target)
        given = batch.model_inputs(self._model_takes())
        if {"position_ids", "input_ids"} <= inputs.keys() and not self._is_packing_checked:
            self._check_packing(model, batch, given)
        outputs = model(**given)
        logits = outputs.logits[..., : self._vocabulary]
        positions, labelled = self._counts
        divergence = self._loss(
            logits, target, mask=batch.mask, temperature=self._temperature, reduction="sum"
        )
        loss = self._alpha / positions * divergence
        if self._alpha < 1:
            rows, labels = logits.flatten(0, -2).float(), batch.labels.flatten()
            entropy = torch.nn.functional.cross_entropy(rows, labels, reduction="sum")
            loss = loss + (1 - self._alpha) / labelled * entropy
        # Data-parallel training takes the mean of the ranks' gradients.
        loss = loss * self.student.shard.ranks
        return (loss, outputs) if return_outputs else loss

    def _check_packing(self, model: Any, batch: TrainingBatch, given: dict[str, Any]) -> None:
        """Check, with the first batch in which a text follows another, that it does not see that.

        All ranks take part if one of them has such a batch, since they run the model together.
        """
        place = batch.inner_text() if batch.is_packed else None
        if not self._on_any_rank(place is not None):
            return
        self._is_packing_checked = True
        row, start, end = place or (0, 0, COMPARED_TOKENS)
        whole = given["input_ids"].shape
        alone = {
            name: value[row : row + 1, start:end]
            if isinstance(value, torch.Tensor) and value.shape[:2] == whole
            else value
            for name, value in given.items()
            if name not in ("attention_mask", "position_ids")
        }
        model.eval()
        try:
            with torch.no_grad():
                in_row = model(**given).logits[row, start:end]
                apart = model(**alone).logits[0]
        finally:
            model.train()
        exact = self.accelerator.mixed_precision == "no"
        sees = place is not None and not are_equal(model, in_row, apart, exact=exact)
        if self._on_any_rank(sees):
            where = f"row {row}, position {start}" if sees else "on another rank"
            raise ConfigurationError(
                f"{type(self.model).__name__} lets a text see what is before it in its row "
                f"({where}); load it with attn_implementation='sdpa', or have the teacher read one "
                "text a row, padded, with attention_mask"
            )

    def _on_any_rank(self, here: bool) -> bool:
        if self.args.world_size == 1:
            return here
        flag = torch.tensor(int(here), device=self.args.device)
        return bool(self.accelerator.reduce(flag, "sum") > 0)

    def _read(self, batch: dict[str, Any]) -> TrainingBatch:
        left = self.student.ragged_format.pad_left
        return TrainingBatch(
            batch, **self._keys, pad_left=left, shifts_labels=shifts_labels(self.model)
        )

    def _model_takes(self) -> list[str]:
        """The arguments of the model's `forward`, without labels."""
        self._set_signature_columns_if_needed()
        taken: list[str] = self._signature_columns or []
        return [name for name in taken if name not in self.label_names]


class KnowledgeTrainer(KnowledgeTrainerMixin, Trainer):
    """A `Trainer` that trains on a student's batches: see `KnowledgeTrainerMixin`."""
