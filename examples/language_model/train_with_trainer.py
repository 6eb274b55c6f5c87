"""Trains a causal language model on teachers' knowledge, with the `Trainer` of `transformers`.

    python -m tutelage.examples.language_model.train_with_trainer \
        --model MODEL --knowledge TEACHER.avro --output_dir FOLDER --max_steps 1000

On several ranks, `torchrun --nproc-per-node 4 -m` stands in place of `python -m`. Killed, the same
command goes on behind its last checkpoint. All flags of `TrainingArguments` are flags here.

Lines that a script without Tutelage does not have are marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, TrainingArguments

from tutelage import FileSource, Student  # Tutelage
from tutelage.integrations.trainer import KnowledgeTrainer, last_checkpoint  # Tutelage


@dataclass
class Names:
    """What is trained, and on what."""

    model: str = field(metadata={"help": "The student's name or folder, with its tokenizer."})
    knowledge: list[str] = field(metadata={"help": "A file of each teacher."})
    vocabulary: int | None = field(
        default=None,
        metadata={"help": "The teachers' number of ids, if the model's head has more rows."},
    )


def main(given: Sequence[str] | None = None) -> Any:
    """Train, and save the model; return the trainer.

    Args:
        given: The flags; those of the command line if None.
    """
    kinds: Any = (Names, TrainingArguments)
    flags = None if given is None else list(given)
    names, args = HfArgumentParser(kinds).parse_args_into_dataclasses(flags)
    model = AutoModelForCausalLM.from_pretrained(names.model)
    tokenizer = AutoTokenizer.from_pretrained(names.model)
    student = Student({"input_ids": "same", "logits": "mean"}, shard="auto")  # Tutelage
    for path in names.knowledge:  # Tutelage
        student.register_teacher(FileSource(path))  # Tutelage
    with student:  # Tutelage
        # Tutelage: `student` takes the place of train_dataset; `vocabulary` cuts off a padded head.
        trainer = KnowledgeTrainer(
            model,
            args,
            processing_class=tokenizer,
            student=student,
            vocabulary=names.vocabulary,
        )
        trainer.train(resume_from_checkpoint=last_checkpoint(args.output_dir))
    trainer.save_model()
    return trainer


if __name__ == "__main__":
    main()
