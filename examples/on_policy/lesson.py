"""What a replica of the teacher answers. It reads the teacher from `teacher/` of the working directory.

    tutelage teach tutelage.examples.on_policy.lesson:sampled \\
        --queries TOPIC.queries --topic TOPIC --wire logits=sampled:50
    tutelage teach tutelage.examples.on_policy.lesson:candidates \\
        --queries TOPIC.queries --topic TOPIC

`python -m tutelage.examples.on_policy` writes the teacher, and starts such commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from tutelage import Lesson
from tutelage.examples.on_policy import models
from tutelage.integrations.transformers import CausalLMTeacher

#: The folder of the teacher, in the working directory.
FOLDER = Path("teacher")
NAME = "teacher"


class Answers(nn.Module):
    """The keys that a student cannot know; its queries have the others.

    Args:
        teacher: The teacher.
        keys: The keys of its knowledge that are an answer.
    """

    def __init__(self, teacher: CausalLMTeacher, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.teacher = teacher
        self._keys = keys

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
        knowledge = self.teacher(batch)
        return {key: knowledge[key] for key in self._keys}


def sampled() -> Lesson:
    """Answers with logits; `--wire logits=sampled:N` makes draws of them."""
    return _lesson(("logits",))


def candidates() -> Lesson:
    """Answers with the log-probabilities of the ids that a query has under `candidates`."""
    return _lesson(("log_probs", "tail"), candidates="candidates")


def _lesson(keys: tuple[str, ...], **options: Any) -> Lesson:
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    teacher = CausalLMTeacher(models.load(FOLDER), **options)
    # Only positions behind a prompt are answered, so rows are ragged.
    return Lesson(model=Answers(teacher, keys), name=NAME, ragged_keys=keys)
