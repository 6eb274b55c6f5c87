"""A student's state in the checkpoints of a `Trainer`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from tutelage.integrations.trainer import KnowledgeTrainerMixin

#: The file in `checkpoint-N` that holds the student's state.
STATE_NAME = "tutelage.json"


class StudentCallback(TrainerCallback):
    """Keeps a student's state beside the Trainer's, as `checkpoint-N/tutelage.json`.

    It is the last file of a checkpoint: one that has it is whole. `KnowledgeTrainerMixin` adds the
    callback.

    Args:
        trainer: The trainer.
    """

    def __init__(self, trainer: KnowledgeTrainerMixin) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count passes as epochs, where it is known how many steps a pass takes."""
        each = args.gradient_accumulation_steps
        batches = self._trainer.pass_batches or each * state.max_steps
        state.epoch = state.global_step * each / batches
        before = (state.global_step - 1) * each // batches
        control.should_epoch_stop |= state.global_step * each // batches > before

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the student's state behind the last batch that was trained on."""
        trainer = self._trainer
        # Each rank has files of its own in the checkpoint.
        trainer.accelerator.wait_for_everyone()
        if args.should_save:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_NAME
            trainer.student.save(path, at=trainer.trained_to)


def last_checkpoint(folder: str | os.PathLike[str]) -> str | None:
    """Return the last whole checkpoint in a folder, to resume from.

    One that was being written when its run was killed is not whole.

    Args:
        folder: The Trainer's `output_dir`.

    Returns:
        Its path; None if there is none.
    """
    steps = [
        int(found.parent.name.removeprefix("checkpoint-"))
        for found in Path(folder).glob(f"checkpoint-*/{STATE_NAME}")
        if found.parent.name.removeprefix("checkpoint-").isdigit()
    ]
    return str(Path(folder, f"checkpoint-{max(steps)}")) if steps else None
