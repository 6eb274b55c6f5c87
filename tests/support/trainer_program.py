"""A program that trains a tiny model with `KnowledgeTrainer`, or in a loop with accelerate; for one rank, or under torchrun.

    python trainer_program.py JSON

It runs one training for each of the given descriptions, and each writes what came out of it to
`result.json` in its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from support import tiny_models
from transformers import TrainerCallback, TrainingArguments

from tutelage import FileSink, FileSource, RaggedFormat, Sampled, Shuffle, Student, Teacher
from tutelage.integrations.trainer import KnowledgeTrainer, last_checkpoint
from tutelage.integrations.transformers import CausalLMTeacher
from tutelage.losses import forward_kl

VOCABULARY = tiny_models.VOCABULARY


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training: of `share` rows a rank, shuffled, in steps of two batches.

    Args:
        file: The knowledge.
        out: The Trainer's folder.
        share: `per_device_train_batch_size`.
        rows: Rows of a pass.
        dropout: The model's.
        alpha: The share of the divergence.
        resume: Whether to go on from the last checkpoint.
        kill: The step before which a rank kills itself; 0 for none.
        kill_saving: The step in whose checkpoint a rank kills itself; 0 for none.
        rank: The rank that does.
        loop: Whether a loop with accelerate takes the Trainer's place, for one pass.
        until: The batch behind which the loop ends; 0 for the end of the pass.
    """

    file: str
    out: str
    share: int
    rows: int
    dropout: float = 0.1
    alpha: float = 0.8
    resume: bool = False
    kill: int = 0
    kill_saving: int = 0
    rank: int = 0
    loop: bool = False
    until: int = 0


class Killed(TrainerCallback):
    """Ends the process as nothing else does, before a step."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


class Program(KnowledgeTrainer):
    """Is killed when it has written the weights of a checkpoint, and nothing else."""

    killed_at = 0

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if self.state.global_step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)


def texts(rows: int) -> list[dict[str, torch.Tensor]]:
    """Batches of texts of 2 to 8 tokens, padded on the right."""
    generator = torch.Generator().manual_seed(5)
    batches = []
    for start in range(0, rows, 4):
        count = min(4, rows - start)
        lengths = torch.randint(2, 9, (count, 1), generator=generator)
        mask = (torch.arange(8) < lengths).long()
        ids = torch.randint(3, VOCABULARY, (count, 8), generator=generator)
        batches.append({"input_ids": ids * mask, "attention_mask": mask})
    return batches


def write(
    path: Path,
    rows: int,
    *,
    passes: int = 1,
    wire: Any = Sampled(10),  # noqa: B008
    equal: bool = False,
) -> None:
    """Write what a tiny model knows of texts, in records of two rows; of texts of equal length if asked."""
    inputs = [{"input_ids": each["input_ids"]} for each in texts(rows)] if equal else texts(rows)
    # Draws depend on the run's name. Of some draws, Adam makes much of the last bit of a sum.
    with Teacher(
        FileSink(path), run_id="texts", wire={"logits": wire}, rows_per_record=2, passes=passes
    ) as teacher:
        teacher.serve(CausalLMTeacher(tiny_models.granite()), inputs)


def student_of(path: str | Path, **options: Any) -> Student:
    """A student of a file."""
    student = Student(timeout_s=20, **options)
    student.register_teacher(FileSource(path))
    return student


def run(training: Training) -> dict[str, Any]:
    """Train; return what the Trainer logged, and a digest of the weights."""
    rank = int(os.environ.get("RANK", "0"))
    args = TrainingArguments(
        training.out,
        per_device_train_batch_size=training.share,
        gradient_accumulation_steps=2,
        num_train_epochs=3,
        learning_rate=0.02,
        save_steps=2,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo" if "RANK" in os.environ else None,
    )
    here = rank == training.rank
    callbacks = [Killed(training.kill)] if here else []
    student = student_of(training.file, shard="auto", ragged_format=RaggedFormat(pad_left=True))
    with student:
        trainer = Program(
            tiny_models.llama(attention_dropout=training.dropout),
            args,
            student=student,
            rows=training.rows,
            shuffle=Shuffle(seed=3, window_rows=8),
            alpha=training.alpha,
            callbacks=callbacks,
        )
        trainer.killed_at = training.kill_saving if here else 0
        last = last_checkpoint(training.out) if training.resume else None
        trainer.train(resume_from_checkpoint=last)
    kept = ("step", "epoch", "loss", "grad_norm", "learning_rate")
    logged = [{name: line[name] for name in kept} for line in trainer.state.log_history[:-1]]
    weights = digest_of(trainer.accelerator.unwrap_model(trainer.model))
    return {"logged": logged, "weights": weights}


def run_loop(training: Training) -> dict[str, Any]:
    """Train in a loop with accelerate, as docs/trainers.md does; of each batch return the loss."""
    accelerator = Accelerator(cpu=True)
    model = tiny_models.llama()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.02))
    folder, logged = Path(training.out), []
    with student_of(training.file, shard="auto") as student:
        if training.resume:
            accelerator.load_state(str(folder / "state"))
            student.load(folder / "student.json")
        batches = student.dataset(
            training.share, weight_key="weight", position_key="position", pad_empty=True
        )
        for batch in batches:
            position = batch.pop("position")
            here = {key: value.to(accelerator.device) for key, value in batch.items()}
            logits = model(input_ids=here["input_ids"]).logits
            each = forward_kl(logits, here["logits"], reduction="none")
            loss = (here["weight"] * each.view(len(logits), -1).mean(1)).sum()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            logged.append(float(accelerator.reduce(loss.detach(), "mean")))
            if int(position[1]) == training.until:
                accelerator.save_state(str(folder / "state"))
                if accelerator.is_main_process:
                    student.save(folder / "student.json", at=position)
                break
    return {"logged": logged, "weights": digest_of(accelerator.unwrap_model(model))}


def digest_of(model: torch.nn.Module) -> str:
    """What all weights are, bit for bit."""
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def described(*trainings: Training) -> str:
    """The program's argument."""
    return json.dumps([asdict(training) for training in trainings])


def main() -> None:
    """Run the trainings of the argument, one behind the other."""
    torch.set_num_threads(1)
    for values in json.loads(sys.argv[1]):
        training = Training(**values)
        result = run_loop(training) if training.loop else run(training)
        if os.environ.get("RANK", "0") == "0":
            Path(training.out).mkdir(exist_ok=True)
            Path(training.out, "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
