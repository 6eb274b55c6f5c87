"""A program that trains a tiny model with Lightning on a student's batches; for one rank, or several.

    python lightning_program.py JSON

It runs the training that the JSON describes. Each rank writes to the training's folder what came out
of it, and rank 0 a checkpoint behind each step.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tutelage import FileSource, MemorySource, MemoryTopic, Sink, Student, Teacher
from tutelage.integrations.lightning import KnowledgeDataModule


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training.

    Args:
        file: The knowledge.
        out: The folder of checkpoints and `result-RANK.json`.
        size: Rows of a batch over all ranks.
        ranks: Ranks of Lightning's own launcher.
        epochs: `max_epochs`.
        limit: `limit_train_batches`; 0 for whole passes.
        accumulate: `accumulate_grad_batches`.
        resume: The step from whose checkpoint to go on; 0 for none.
        kill: The step in which the last rank kills itself; 0 for none.
    """

    file: str
    out: str
    size: int = 6
    ranks: int = 1
    epochs: int = 3
    limit: int = 0
    accumulate: int = 1
    resume: int = 0
    kill: int = 0


class Model(LightningModule):
    """Learns `y` of `x`; notes the rows and the loss of each step."""

    def __init__(self, kill: int = 0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
        )
        self.steps: list[list[Any]] = []
        self.epochs: list[int] = []
        self.kill = kill

    def training_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        assert set(batch) == {"id", "x", "y", "weight"}
        if self.kill and self.global_step + 1 == self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        loss: torch.Tensor = (
            batch["weight"] * (self.net(batch["x"])[:, 0] - batch["y"]) ** 2
        ).sum()
        ids = batch["id"][batch["weight"] > 0].tolist()
        self.steps.append([self.current_epoch, ids, loss.item()])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def weights(self) -> list[float]:
        """All parameters."""
        return torch.cat([each.detach().flatten() for each in self.net.parameters()]).tolist()


def write(sink: Sink, rows: int, *, passes: int = 2) -> None:
    """Write rows of numbers, in records of two; those of the second pass have ids from 100."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 4, generator=generator)
    with Teacher(sink, rows_per_record=2, passes=passes) as teacher:
        for index in range(passes):
            teacher.write({"id": torch.arange(rows) + 100 * index, "x": x, "y": x.sum(1)})
            if index < passes - 1:
                teacher.end_pass()


class LengthUnknown(MemorySource):
    """A topic of which no pass has a known length, like a run in Kafka that goes on."""

    def pass_rows(self) -> Mapping[int, int]:
        return {}


def student_of(source: str | Path | MemoryTopic, **options: Any) -> Student:
    """A student of a file, or of a topic whose passes have no known length."""
    student = Student(timeout_s=20, **options)
    student.register_teacher(
        LengthUnknown(source) if isinstance(source, MemoryTopic) else FileSource(source)
    )
    return student


def trainer_of(out: str | Path, *callbacks: Callback, **options: Any) -> Trainer:
    """A quiet trainer on CPUs."""
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": bool(callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": out,
            "callbacks": list(callbacks),
            **options,
        }
    )


def checkpoint_of(out: str | Path, step: int) -> str:
    """The checkpoint behind a step."""
    return str(Path(out, f"step={step}.ckpt"))


def run(training: Training, topic: MemoryTopic | None = None) -> dict[str, Any]:
    """Train; return the steps that this rank made, and the weights.

    Args:
        training: What to do.
        topic: The knowledge, instead of the file.
    """
    keep = ModelCheckpoint(
        dirpath=training.out, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    trainer = trainer_of(
        training.out,
        keep,
        devices=training.ranks,
        strategy="ddp" if training.ranks > 1 else "auto",
        max_epochs=training.epochs,
        limit_train_batches=training.limit or 1.0,
        accumulate_grad_batches=training.accumulate,
    )
    model = Model(training.kill if trainer.global_rank == training.ranks - 1 else 0)
    with student_of(topic or training.file, shard="auto") as student:
        data = KnowledgeDataModule(
            student,
            global_batch_size=training.size,
            weight_key="weight",
            pad_empty=True,
        )
        resume = checkpoint_of(training.out, training.resume) if training.resume else None
        trainer.fit(model, datamodule=data, ckpt_path=resume, weights_only=True)
    result = {"steps": model.steps, "weights": model.weights()}
    Path(training.out, f"result-{trainer.global_rank}.json").write_text(json.dumps(result))
    return result


def described(training: Training) -> str:
    """The program's argument."""
    return json.dumps(asdict(training))


def main() -> None:
    """Run the training of the argument."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    run(Training(**json.loads(sys.argv[1])))


if __name__ == "__main__":
    main()
