"""A batch of knowledge -> what the model takes, and where the loss is taken.

Knows no trainer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from tutelage import SparseTarget
from tutelage.integrations.texts_apart import COMPARED_TOKENS
from tutelage.integrations.token_batches import TokenBatch
from tutelage.schemas.errors import ConfigurationError

# The student's keys of lengths end so.
_LENGTHS = ".lengths"
# What `transformers` puts in place of labels that are not trained on.
_IGNORED_LABEL = -100


class TrainingBatch:
    """One rank's batch, with the keys that `CausalLMTeacher` gives, or those of another model.

    Args:
        batch: What the student gave.
        key: The key of the teacher's logits.
        mask_key: The key, if the batch has it, that is nonzero at each position that counts.
        pad_left: Whether ragged keys are padded on the left.
        shifts_labels: Whether the model is one of next tokens: the label of position i is then that
            of token i + 1, as in `transformers`.

    Raises:
        ConfigurationError: It has no such logits, or its tokens are not padded.
    """

    def __init__(
        self,
        batch: Mapping[str, Any],
        *,
        key: str,
        mask_key: str,
        pad_left: bool,
        shifts_labels: bool = True,
    ) -> None:
        if key not in batch:
            raise ConfigurationError(
                f"a batch has no key {key!r}, only {sorted(batch)}; name the key of the teacher's "
                "logits: KnowledgeTrainer(key=...)"
            )
        ids = batch.get("input_ids")
        if ids is not None and ids.ndim != 2:
            raise ConfigurationError(
                f"input_ids are {list(ids.shape)}; the model takes padded ones [rows, T]: leave "
                "padded out of Student(ragged_format=RaggedFormat(...))"
            )
        self._batch = batch
        self._key = key
        self._mask_key = mask_key
        self._pad_left = pad_left
        self._shifts_labels = shifts_labels

    @property
    def is_packed(self) -> bool:
        """Whether a row holds several texts: positions begin again between its tokens."""
        if not ("position_ids" in self._batch and "input_ids" in self._batch):
            return False
        return self._tokens().is_packed

    def inner_text(self) -> tuple[int, int, int] | None:
        """A text that has another before it in its row: row, first position, end; None if none has."""
        return self._tokens().inner_text(COMPARED_TOKENS)

    def _tokens(self) -> TokenBatch:
        """The tokens, with their positions."""
        batch, lengths = self._batch, self._batch.get("input_ids" + _LENGTHS)
        names = ("input_ids", "position_ids", "attention_mask")
        tokens = {name: batch[name] for name in names if name in batch}
        if lengths is not None:
            tokens["attention_mask"] = self._within(lengths.clamp(min=1))
        return TokenBatch(tokens)

    def model_inputs(self, names: Collection[str]) -> dict[str, Any]:
        """Return the keys that the model takes, with a mask of padding where there is some.

        Args:
            names: The arguments that the model's `forward` names.

        Raises:
            ConfigurationError: Rows hold several texts, and the model takes no `position_ids`.
        """
        batch = self._batch
        inputs = {name: batch[name] for name in names if name in batch}
        lengths = batch.get("input_ids" + _LENGTHS)
        if self.is_packed:
            if "position_ids" not in names:
                raise ConfigurationError(
                    "a row holds several texts, and this model takes no position_ids to tell them "
                    "apart; let the teacher have one text a row, padded, with attention_mask"
                )
            # `transformers` tells texts apart by their positions only without a mask and a cache.
            inputs.pop("attention_mask", None)
            inputs["position_ids"] = self._tokens().positions_apart()
            if "use_cache" in names:
                inputs["use_cache"] = False
        elif lengths is not None and "attention_mask" in names:
            # A row without any token would be NaN in the attention: it keeps one, which no loss
            # counts.
            mask = self._within(lengths.clamp(min=1)).long()
            inputs["attention_mask"] = mask
            if self._pad_left and "position_ids" in names:
                inputs["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)
        if "position_ids" in inputs:
            inputs["position_ids"] = inputs["position_ids"].long()
        return inputs

    @property
    def target(self) -> Any:
        """The teacher's logits, for `tutelage.losses`."""
        target, lengths = self._batch[self._key], self._batch.get(self._key + _LENGTHS)
        if isinstance(target, torch.Tensor) and lengths is not None:
            # Of ragged logits only those that are there: those of the mask.
            there: torch.Tensor = target[_within(lengths, target.shape[1], left=self._pad_left)]
            return there
        return target

    @property
    def mask(self) -> torch.Tensor | None:
        """Where the teacher's logits count, in the shape of the model's positions; None for all."""
        kept = self._batch.get(self._mask_key)
        if kept is not None:
            return _bools(kept)
        return None if self._is_of_rows else self._real()

    @property
    def _is_of_rows(self) -> bool:
        """Whether there is one distribution for each row, as of a classifier of texts."""
        return _is_of_rows(self._batch, self._key)

    @property
    def labels(self) -> torch.Tensor:
        """The label of each of the model's positions, int64; -100 where there is none.

        They are the batch's `labels`, or else the next token of the text. As in `transformers`, the
        `labels` of a text are those of its tokens: the label of position i is that of token i + 1,
        unless the model is not one of next tokens, such as a classifier of tokens.

        Raises:
            ConfigurationError: The batch has neither labels nor tokens, or its labels lie in another
                way than its tokens.
        """
        batch = self._batch
        given = batch.get("labels")
        if given is None and not ("input_ids" in batch and self._shifts_labels):
            raise ConfigurationError(
                f"alpha is below 1, and a batch has neither labels nor tokens that this model "
                f"predicts, only {sorted(batch)}; let the teacher carry the labels"
            )
        if given is not None and given.ndim < 2:
            return _only_where(self.mask, given)
        tokens = batch["input_ids"] if given is None else given
        if given is not None and "input_ids" in batch:
            ids, length_keys = batch["input_ids"], ("input_ids" + _LENGTHS, "labels" + _LENGTHS)
            if given.shape != ids.shape or len({key in batch for key in length_keys}) > 1:
                raise ConfigurationError(
                    f"labels are {list(given.shape)} and input_ids {list(ids.shape)}, of which "
                    f"{[key for key in length_keys if key in batch]} say where padding is: a label "
                    "would be that of another token. Write both without padding, as "
                    "CausalLMTeacher(carry=['labels']) does"
                )
        if not self._shifts_labels:
            return _only_where(self.mask, tokens)
        labels = torch.full_like(tokens, _IGNORED_LABEL, dtype=torch.long)
        labels[:, :-1] = tokens[:, 1:]
        real, kept = self._real(), batch.get(self._mask_key)
        if real is not None:
            labels[:, :-1][~(real[:, 1:] & real[:, :-1])] = _IGNORED_LABEL
        if kept is not None:
            labels[~_bools(kept)] = _IGNORED_LABEL
        if "position_ids" in batch:
            places = batch["position_ids"]
            labels[:, :-1][places[:, 1:] != places[:, :-1] + 1] = _IGNORED_LABEL
        return labels

    def counts(self, *, labelled: bool) -> torch.Tensor:
        """Return how many positions count, and how many have a label if that is asked: int64 [2]."""
        mask, target = self.mask, self.target
        if mask is not None:
            positions = int(mask.sum())
        elif isinstance(target, SparseTarget):
            positions = target.positions
        else:
            positions = target.shape[:-1].numel()
        labels = int((self.labels != _IGNORED_LABEL).sum()) if labelled else 0
        return torch.tensor([positions, labels])

    def _real(self) -> torch.Tensor | None:
        """Which tokens are no padding, bool `[rows, T]`; None if all are."""
        batch = self._batch
        if "input_ids" + _LENGTHS in batch:
            return self._within(batch["input_ids" + _LENGTHS])
        return _bools(batch["attention_mask"]) if "attention_mask" in batch else None

    def _within(self, lengths: torch.Tensor) -> torch.Tensor:
        return _within(lengths, self._batch["input_ids"].shape[1], left=self._pad_left)


def without_rows(batch: dict[str, Any], *, key: str, mask_key: str) -> None:
    """Let none of a batch's positions count: its only row is there for the other ranks' sake.

    Args:
        batch: The batch; it is changed.
        key: The key of the teacher's logits.
        mask_key: The key that gets a mask of zeros.
    """
    target = batch.get(key)
    if "input_ids" in batch and not (key in batch and _is_of_rows(batch, key)):
        shape = tuple(batch["input_ids"].shape)
    elif isinstance(target, SparseTarget):
        shape = (len(target), *target.shape)
    else:
        shape = () if target is None else tuple(target.shape[:-1])
    batch[mask_key] = torch.zeros(shape, dtype=torch.bool)


def _is_of_rows(batch: Mapping[str, Any], key: str) -> bool:
    target = batch[key]
    if isinstance(target, SparseTarget):
        return target.shape == ()
    return bool(target.ndim == 2 and key + _LENGTHS not in batch)


def _within(lengths: torch.Tensor, width: int, *, left: bool) -> torch.Tensor:
    """Which of `width` places hold a row's elements, bool `[rows, width]`."""
    places = torch.arange(width, device=lengths.device)
    return places >= width - lengths[:, None] if left else places < lengths[:, None]


def _only_where(mask: torch.Tensor | None, labels: torch.Tensor) -> torch.Tensor:
    labels = labels.long()
    return labels if mask is None else labels.where(mask, _IGNORED_LABEL)


def _bools(mask: torch.Tensor) -> torch.Tensor:
    return mask != 0
