"""Students of one variant learn, one after the other, in one run of queries and answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage import KafkaSink, KafkaSource, OnPolicy, QueryWriter, Student
from tutelage.examples.language_model import student as training
from tutelage.examples.on_policy.replicas import Plan, Replicas, Say
from tutelage.examples.on_policy.sizes import Size
from tutelage.examples.on_policy.variants import Batch, Variant

# The most replicas that can work at once.
_PARTITIONS = 4
# A replica needs some 30 s on a busy core until it answers.
_TIMEOUT_S = 600.0
# Steps of one student have seeds of their own.
_SEEDS_APART = 1_000_003


@dataclass(frozen=True, kw_only=True, slots=True)
class Learned:
    """A student and what its training took.

    Args:
        seed: Its seed.
        trained: The student.
        answer_bytes: Bytes of answers for each position with a loss.
        query_bytes: Likewise of queries.
    """

    seed: int
    trained: training.Trained
    answer_bytes: float
    query_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What the students of a variant have in common.

    Args:
        variant: The variant.
        size: The sizes.
        windows: The corpus's windows of the comparison, int64 `[steps * rows, context + 1]`. Each
            student sees them all, in an order of its own.
        begin: A seed -> the student before the comparison, on its device.
        topic: The topic of answers; that of queries is `TOPIC.queries`.
        run_id: The run. What is drawn depends on it.
        kafka: `bootstrap_servers` and `registry`.
        folder: Where replicas run; the teacher is there.
        plan: When replicas start and die.
        device: Where students and teachers run.
        say: Called with a line of progress.
    """

    variant: Variant
    size: Size
    windows: torch.Tensor = field(repr=False)
    begin: Callable[[int], PreTrainedModel] = field(repr=False)
    topic: str
    run_id: str
    kafka: dict[str, Any]
    folder: Path
    plan: Plan
    device: str
    say: Say = field(repr=False)

    def learn(self, seeds: list[int]) -> Generator[Learned, None, None]:
        """Train a student for each seed, and give each one when it has learned.

        Args:
            seeds: The seeds.
        """
        steps, rows = self.size.text.steps, self.size.text.batch_rows
        writer = QueryWriter(
            KafkaSink(f"{self.topic}.queries", partitions=_PARTITIONS, **self.kafka),
            rows_per_record=self.size.rows_per_query,
            run_id=self.run_id,
        )
        student = Student(sample_id="query_id", timeout_s=_TIMEOUT_S)
        for name in (f"{self.topic}.queries", self.topic):
            student.register_teacher(KafkaSource(name, **self.kafka))
        group = _Group(self, seeds)
        with writer, student, self._replicas() as replicas:
            batches = OnPolicy(
                student, writer, group.generate, batch_size=rows, steps=steps * len(seeds)
            )
            followed = replicas.follow(batches, steps * len(seeds))
            for index, seed in enumerate(seeds):
                trained = training.train(
                    group.model(index),
                    lambda: itertools.islice(followed, steps),
                    self._loss,
                    size=self.size.text,
                    device=self.device,
                    # One more than have a loss: the last token predicts nothing.
                    last_positions=self.size.continued + 1,
                )
                queries, answers = (
                    sum(stats.nbytes.values()) / sum(stats.rows.values()) / self.size.continued
                    for stats in student.stream_stats
                )
                yield Learned(seed=seed, trained=trained, answer_bytes=answers, query_bytes=queries)

    def _loss(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        return self.variant.loss(logits[:, :-1], batch, self.size.prompt - 1)

    def _replicas(self) -> Replicas:
        flags = [*self.variant.flags(self.size), "--device", self.device]
        # One query a call: so an answer is the same to the bit, whoever computes it.
        flags += ["--max-rows", str(self.size.rows_per_query)]
        return Replicas(
            topic=self.topic,
            lesson=self.variant.lesson,
            flags=tuple(flags),
            kafka=self.kafka,
            folder=self.folder,
            plan=self.plan,
            say=lambda line: self.say(f"{self.variant.name}: {line}"),
        )


class _Group:
    """The students of a course, made when they are first needed, and the rows that they ask about."""

    def __init__(self, course: Course, seeds: list[int]) -> None:
        self._course = course
        self._seeds = seeds
        self._models: dict[int, PreTrainedModel] = {}

    def model(self, index: int) -> PreTrainedModel:
        """The student of the seed with this index. Earlier ones are forgotten, but for one."""
        if index not in self._models:
            self._models[index] = self._course.begin(self._seeds[index])
            self._models.pop(index - 2, None)
        return self._models[index]

    def generate(self, step: int) -> dict[str, torch.Tensor]:
        """The rows of a step of the run: the index of a student, and a step of it."""
        course, text = self._course, self._course.size.text
        index, within = divmod(step, text.steps)
        seed = self._seeds[index]
        order = torch.randperm(len(course.windows), generator=torch.Generator().manual_seed(seed))
        chosen = order[within * text.batch_rows : (within + 1) * text.batch_rows]
        generator = torch.Generator(course.device).manual_seed(_SEEDS_APART * (seed + 1) + within)
        return course.variant.rows(
            self.model(index), course.windows[chosen], course.size, generator
        )
