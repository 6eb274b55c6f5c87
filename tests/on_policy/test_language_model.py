"""A causal language model answers queries of tokens, and of ids that a student chose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models

from tutelage import (
    FileSink,
    FileSource,
    KafkaSink,
    KafkaSource,
    QueryWriter,
    Sampled,
    Student,
    Teacher,
    losses,
)
from tutelage.integrations.transformers import CausalLMTeacher

pytestmark = pytest.mark.kafka
LENGTHS = (5, 9, 2, 7, 4, 4, 8, 3)


def asked() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [
        torch.randint(tiny_models.VOCABULARY, (length,), generator=generator) for length in LENGTHS
    ]


def padded(rows: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows as a data loader gives them."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": masked(ids, lengths)}


def masked(ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def test_answers_are_what_the_teacher_writes_of_the_same_rows(
    kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    topic, model = topic_name("tokens"), tiny_models.llama()
    options: dict[str, Any] = {
        "name": "teacher",
        "ragged_keys": ["logits"],
        "wire": {"logits": Sampled(9)},
    }
    teacher_of = CausalLMTeacher(model)

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        ids, lengths = batch["input_ids"], batch["input_ids.lengths"]
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        return {"logits": teacher_of({"input_ids": ids, "attention_mask": mask})["logits"]}

    sink = KafkaSink(f"{topic}.queries", partitions=2, **kafka)
    with QueryWriter(sink, rows_per_record=4, ragged_keys=["input_ids"], run_id="same") as queries:
        queries.write({"input_ids": asked()})
        queries.end()
    Teacher(KafkaSink(topic, **kafka), **options).answer(answer, f"{topic}.queries", max_rows=4)
    student = Student(sample_id="query_id", timeout_s=60)
    for name in (f"{topic}.queries", topic):
        student.register_teacher(KafkaSource(name, **kafka))
    with student:
        (online,) = student.knowledge(8)

    path = tmp_path / "offline.avro"
    with Teacher(FileSink(path), rows_per_record=4, run_id="same", **options) as teacher:
        batches = [padded(asked()[:4]), padded(asked()[4:])]
        teacher.serve(lambda batch: {"logits": teacher_of(batch)["logits"]}, batches)
    offline = Student()
    offline.register_teacher(FileSource(path))
    with offline:
        (expected,) = offline.knowledge(8)
    assert torch.equal(online["logits"].ids, expected["logits"].ids)
    assert torch.equal(online["logits"].counts, expected["logits"].counts)
    assert online["input_ids.lengths"].tolist() == list(LENGTHS)
    assert online["logits"].lengths.tolist() == list(LENGTHS)
    logits = torch.zeros(8, max(LENGTHS), tiny_models.VOCABULARY, requires_grad=True)
    loss = losses.forward_kl(logits, online["logits"])
    torch.autograd.backward(loss)
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_student_gets_the_log_probabilities_of_the_ids_that_it_chose(
    kafka: dict[str, Any], topic_name: Callable[[str], str]
) -> None:
    topic, teacher, learner = topic_name("chosen"), tiny_models.llama(), tiny_models.gpt2()
    answers = CausalLMTeacher(teacher, candidates="candidates")

    def answer(batch: dict[str, Any]) -> dict[str, Any]:
        ids, lengths = batch["input_ids"], batch["input_ids.lengths"]
        found = answers({**batch, "attention_mask": masked(ids, lengths)})
        return {"log_probs": found["log_probs"]}

    with torch.no_grad():
        found = [
            losses.draw_candidates(learner(input_ids=row[None]).logits[0], 6) for row in asked()
        ]
    chosen, drawn = ([each[part] for each in found] for part in (0, 1))
    ragged = ["input_ids", "candidates", "drawn"]
    sink = KafkaSink(f"{topic}.queries", partitions=2, **kafka)
    with QueryWriter(sink, rows_per_record=4, ragged_keys=ragged) as queries:
        queries.write({"input_ids": asked(), "candidates": chosen, "drawn": drawn})
        queries.end()
    Teacher(KafkaSink(topic, **kafka), ragged_keys=["log_probs"]).answer(answer, f"{topic}.queries")
    student = Student(sample_id="query_id", timeout_s=60)
    for name in (f"{topic}.queries", topic):
        student.register_teacher(KafkaSource(name, **kafka))
    with student:
        (batch,) = student.knowledge(8)

    mask = masked(batch["input_ids"], batch["input_ids.lengths"])
    target = losses.Candidates(batch["candidates"], batch["log_probs"], drawn=batch["drawn"])
    ids = batch["input_ids"].long()
    logits = learner(input_ids=ids).logits.detach().requires_grad_()
    with torch.no_grad():
        full = teacher(input_ids=ids).logits
    loss = losses.reverse_kl(logits, target, mask=mask)
    torch.autograd.backward(loss)
    assert logits.grad is not None and logits.grad.isfinite().all()
    whole = losses.reverse_kl(logits, full, mask=mask)
    torch.testing.assert_close(loss, whole, rtol=0.5, atol=0.5)
    kept = mask.bool()
    torch.testing.assert_close(
        batch["log_probs"][kept],
        full.log_softmax(-1).gather(-1, batch["candidates"].long())[kept],
        rtol=1e-4,
        atol=1e-4,
    )
