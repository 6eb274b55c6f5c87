"""The settings of a `Trainer`, checked and made for a student's batches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import Trainer

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from tutelage.integrations.trainer import KnowledgeTrainerMixin

# What `transformers` calls them.
_LOSSES_OF_NEXT_TOKENS = ("ForCausalLM", "ForConditionalGeneration")


def settle(trainer: KnowledgeTrainerMixin, rows: int | None) -> int | None:
    """Check a trainer's settings, and make those that training on a student needs.

    Args:
        trainer: The trainer; its `args` are changed.
        rows: Rows of a pass; None for what the student knows.

    Returns:
        How many batches a pass has, if that is known.

    Raises:
        ConfigurationError: A setting cannot hold for a student's batches.
    """
    args, shard = trainer.args, trainer.student.shard
    same = trainer.get_tp_size() * trainer.get_cp_size() * trainer.get_sp_size()
    ranks = args.world_size // same
    if shard.ranks != ranks:
        raise ConfigurationError(
            f"{ranks} ranks train on different data, and the student is rank {shard.rank} of "
            f'{shard.ranks}; make it with Student(shard="auto"), or with the dimension of the '
            "device mesh over which data are parallel"
        )
    if args.auto_find_batch_size:
        raise ConfigurationError(
            "auto_find_batch_size begins again with other batches, and a student's state holds "
            "for one batch size; set per_device_train_batch_size"
        )
    _check_loss(trainer)
    # A resumed Trainer would read, and throw away, what the student has passed already.
    args.ignore_data_skip = True
    rows = _known_rows(trainer) if rows is None else rows
    if rows is None:
        _check_steps(trainer)
        return None
    whole = check_whole_number("rows", rows) / (args.train_batch_size * ranks)
    batches: int = max(1, math.floor(whole) if args.dataloader_drop_last else math.ceil(whole))
    if args.max_steps <= 0:
        steps = args.num_train_epochs * batches / args.gradient_accumulation_steps
        args.max_steps = math.ceil(steps)
    return batches


def _check_loss(trainer: KnowledgeTrainerMixin) -> None:
    """Check that no setting asks for another loss than that of knowledge."""
    if not hasattr(Trainer, "loss_is_scaled_for_ga"):
        raise ConfigurationError(
            f"transformers {transformers.__version__} divides the losses of accumulated batches once "
            "more; 5.21 does not: pip install -U transformers"
        )
    config = getattr(trainer.model, "config", None)
    without_effect = {
        "compute_loss_func": trainer.compute_loss_func is not None,
        "label_smoothing_factor": bool(trainer.args.label_smoothing_factor),
        "output_router_logits": bool(getattr(config, "output_router_logits", False)),
    }
    for name, is_set in without_effect.items():
        if is_set:
            raise ConfigurationError(
                f"{name} is set, and would have no effect: the loss is that of the teacher's "
                "knowledge. Leave it out, or give KnowledgeTrainer(loss=...)"
            )


def _known_rows(trainer: KnowledgeTrainerMixin) -> int | None:
    """The rows of a pass, if the students of all ranks know them, and passes do not differ."""
    student = trainer.student
    found = {student.pass_rows(index) for index in (0, student.passes - 1)} - {None}
    rows = found.pop() if len(found) == 1 else None
    # In a topic an end may come between the ranks' looks; all must see the same.
    mine = torch.tensor([-1 if rows is None else rows], device=trainer.args.device)
    return rows if bool((trainer.accelerator.gather(mine) >= 0).all()) else None


def shifts_labels(model: Any) -> bool:
    """Return whether a model predicts next tokens, so that labels are moved by one for its loss.

    A model whose loss `transformers` does not know is treated as one.

    Args:
        model: The model, which PEFT may have wrapped.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(getattr(inner, "config", None), "is_encoder_decoder", False):
        return False
    return getattr(inner, "loss_type", None) in (None, *_LOSSES_OF_NEXT_TOKENS)


def _check_steps(trainer: KnowledgeTrainerMixin) -> None:
    """Check that nothing depends on when a pass ends."""
    if trainer.args.max_steps <= 0:
        raise ConfigurationError(
            "how long to train is not known: set max_steps in TrainingArguments, or give rows, the "
            "rows of a pass, and num_train_epochs counts passes"
        )
    for name in ("save_strategy", "eval_strategy", "logging_strategy"):
        if getattr(trainer.args, name) == "epoch":
            raise ConfigurationError(
                f'{name} is "epoch", and when a pass ends is not known: give rows, the rows of a '
                'pass, or set "steps"'
            )
