"""A program that trains with TRL's GKDTrainer under torchrun: on stored logits, and with the model that wrote them.

    python -m torch.distributed.run --nproc-per-node=2 gkd_program.py FILE FOLDER

It writes what the trainers logged, and the weights, to `result.json` in the folder.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from support import tiny_models
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast
from trl.experimental.gkd import GKDConfig, GKDTrainer
from trl.experimental.utils import DataCollatorForChatML

from tutelage import FileSink, KnowledgeFile, Teacher
from tutelage.integrations.gkd import KnowledgeGKDTrainer, StoredTeacher
from tutelage.integrations.transformers import CausalLMTeacher

VOCABULARY = tiny_models.VOCABULARY
TEXTS = 8
_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "user", "assistant"]
    words += [f"w{number}" for number in range(VOCABULARY - len(words))]
    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=_TEMPLATE,
        model_max_length=64,
    )


def chats(rows: int = TEXTS, seed: int = 3) -> list[dict[str, Any]]:
    """Conversations of different length."""
    generator = torch.Generator().manual_seed(seed)

    def said(role: str) -> dict[str, str]:
        count = int(torch.randint(2, 6, (), generator=generator))
        words = torch.randint(0, VOCABULARY - 6, (count,), generator=generator).tolist()
        return {"role": role, "content": " ".join(f"w{word}" for word in words)}

    return [{"messages": [said("user"), said("assistant")]} for _ in range(rows)]


def collator(max_length: int = 64) -> DataCollatorForChatML:
    """Makes padded batches of chats, on the left, with labels for the answers."""
    return DataCollatorForChatML(tokenizer=tokenizer(), max_length=max_length)


def teacher_model() -> Any:
    """A model of other weights than the student."""
    return tiny_models.llama(hidden_size=24, num_hidden_layers=3)


def written(
    path: Path,
    *,
    rows: list[dict[str, Any]] | None = None,
    answers: bool = False,
    max_length: int = 64,
    wire: Any = None,
    vocabulary: int | None = None,
    changed: bool = False,
) -> Path:
    """Write what the teacher knows of the chats: of all their tokens, or of the answers alone.

    `changed` has another model know it.
    """
    data: Any = rows or chats()
    loader: Any = DataLoader(data, batch_size=3, collate_fn=collator(max_length))
    names = {"input_ids", "attention_mask", *(["labels"] if answers else [])}
    batches = [{name: batch[name] for name in names} for batch in loader]
    options: dict[str, Any] = {} if wire is None else {"wire": {"logits": wire}}
    with Teacher(FileSink(path), rows_per_record=2, **options) as teacher:
        model = tiny_models.llama() if changed else teacher_model()
        teacher.serve(CausalLMTeacher(model, vocabulary=vocabulary), batches)
    return path


def settings(folder: Path, **changes: Any) -> GKDConfig:
    """Settings for four steps, each of two batches."""
    return GKDConfig(
        str(folder / "out"),
        **{
            "lmbda": 0.0,
            "beta": 0.0,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "num_train_epochs": 2,
            "learning_rate": 0.5,
            "optim": "sgd",
            "max_length": 64,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "bf16": False,
            "activation_checkpointing": False,
            **changes,
        },
    )


def trained(
    teacher: Any, args: GKDConfig, kind: type[GKDTrainer] = GKDTrainer, **options: Any
) -> tuple[list[float], torch.Tensor, GKDTrainer]:
    """Train; return what was logged of each step, all weights, and the trainer."""
    student = tiny_models.llama()
    trainer = kind(
        student,
        teacher,
        args,
        train_dataset=Dataset.from_list(chats()),
        processing_class=tokenizer(),
        **options,
    )
    trainer.train()
    logged = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    weights = torch.cat([each.detach().flatten() for each in student.parameters()])
    return logged, weights, trainer


def main() -> None:
    """Train on a file, and then with the model that wrote it."""
    torch.set_num_threads(1)
    path, folder = sys.argv[1:]
    args = settings(Path(folder), per_device_train_batch_size=1, ddp_backend="gloo")
    results = []
    with KnowledgeFile(path) as file:
        teachers: Any = [
            (StoredTeacher(file, args), KnowledgeGKDTrainer),
            (teacher_model(), GKDTrainer),
        ]
        for teacher, kind in teachers:
            logged, weights, _ = trained(teacher, args, kind)
            results.append({"logged": logged, "weights": weights.tolist()})
    if os.environ["RANK"] == "0":
        Path(folder, "result.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
