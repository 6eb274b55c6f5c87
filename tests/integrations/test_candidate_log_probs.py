"""A language model's log-probabilities of ids that the student chose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import tiny_models
from support.tiny_models import VOCABULARY
from transformers import PreTrainedModel

from tutelage import ConfigurationError
from tutelage.integrations.candidate_log_probs import candidate_log_probs
from tutelage.integrations.transformers import CausalLMTeacher

LENGTHS = (7, 4, 2)
K = 5
MODELS = [tiny_models.llama, tiny_models.gpt2, tiny_models.gemma2, tiny_models.granite]


def batch_of(side: str) -> dict[str, torch.Tensor]:
    """Texts padded on one side, with K ids at each position. Those at padding are all 0."""
    generator = torch.Generator().manual_seed(5)
    columns: dict[str, list[torch.Tensor]] = {"input_ids": [], "attention_mask": [], "mine": []}
    for length in LENGTHS:
        columns["input_ids"].append(torch.randint(3, VOCABULARY, (length,), generator=generator))
        columns["attention_mask"].append(torch.ones(length, dtype=torch.long))
        chosen = torch.rand(length, VOCABULARY, generator=generator).topk(K).indices
        columns["mine"].append(chosen.int())
    return {
        key: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        for key, rows in columns.items()
    }


@torch.no_grad()
def wanted(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Log-probabilities and tails at all tokens, by the model's own logits of each text alone."""
    log_probs, tails = [], []
    for row, mask in enumerate(batch["attention_mask"].bool()):
        ids, chosen = batch["input_ids"][row][mask], batch["mine"][row][mask].long()
        own = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        log_probs.append(own.gather(-1, chosen))
        tails.append(own.scatter(-1, chosen, -torch.inf).logsumexp(-1))
    return torch.cat(log_probs).float(), torch.cat(tails).float()


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_they_are_the_model_s_own(make: Callable[[], PreTrainedModel], side: str) -> None:
    model, batch = make(), batch_of(side)
    knowledge = CausalLMTeacher(model, candidates="mine")(batch)
    assert set(knowledge) == {"input_ids", "log_probs", "tail"}
    for name, expected in zip(("log_probs", "tail"), wanted(model, batch), strict=True):
        value = knowledge[name]
        assert value.lengths.tolist() == list(LENGTHS)
        assert not value.values.requires_grad
        assert_same(value.values, expected)


def test_whole_rows_have_the_shape_of_the_batch() -> None:
    model, batch = tiny_models.llama(), batch_of("right")
    first = {key: batch[key][:1] for key in ("input_ids", "mine")}
    knowledge = CausalLMTeacher(model, candidates="mine")(first)
    log_probs, tails = wanted(model, batch)
    assert knowledge["log_probs"].shape == (1, 7, K) and knowledge["tail"].shape == (1, 7)
    assert_same(knowledge["log_probs"][0], log_probs[:7])
    assert_same(knowledge["tail"][0], tails[:7])


def test_only_positions_before_trained_tokens_are_answered() -> None:
    model, batch = tiny_models.llama(), batch_of("right")
    trained = torch.zeros_like(batch["input_ids"])
    trained[0, [0, 3, 6]] = 1
    trained[1, 2] = 1
    knowledge = CausalLMTeacher(model, candidates="mine")({**batch, "loss_mask": trained})
    log_probs, tails = wanted(model, batch)
    assert knowledge["log_probs"].lengths.tolist() == [2, 1, 0]
    assert_same(knowledge["log_probs"].values, log_probs[[2, 5, 8]])
    assert_same(knowledge["tail"].values, tails[[2, 5, 8]])


def test_hidden_states_may_come_too_and_logits_do_not() -> None:
    teacher = CausalLMTeacher(tiny_models.llama(), key="logits", candidates="mine", hidden=True)
    assert set(teacher(batch_of("right"))) == {"input_ids", "log_probs", "tail", "hidden"}


def test_logits_exist_for_a_chunk_of_positions_at_a_time() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(11, 4, generator=generator), torch.randn(30, 4)
    ids = torch.rand(11, 30, generator=generator).topk(3).indices
    seen: list[int] = []

    def head(states: torch.Tensor) -> torch.Tensor:
        seen.append(len(states))
        return states @ weight.T

    whole = candidate_log_probs(hidden, head, ids, 30)
    chunked = candidate_log_probs(hidden, head, ids, 30, chunk_positions=4)
    assert seen == [11, 4, 4, 3]
    torch.testing.assert_close(whole, chunked)


def test_the_tail_is_exact_where_the_candidates_have_almost_everything() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 2] = 200.0
    log_probs, tail = candidate_log_probs(
        torch.zeros(1, 1), lambda states: logits.clone(), torch.tensor([[2]]), 10
    )
    assert float(log_probs) == 0.0
    assert float(tail) == pytest.approx(float(torch.tensor(9.0).log()) - 200, rel=1e-6)
    _, nothing = candidate_log_probs(
        torch.zeros(1, 1), lambda states: logits[:, :2].clone(), torch.tensor([[0, 1]]), 2
    )
    assert float(nothing) == -torch.inf


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (None, "candidates names 'mine', and the batch has"),
        (torch.zeros(3, 7, dtype=torch.int32), r"mine is torch.int32 \[3, 7\]"),
        (torch.zeros(3, 6, 2, dtype=torch.int32), r"mine is torch.int32 \[3, 6, 2\]"),
        (torch.zeros(3, 7, 2), "mine is torch.float32"),
        (torch.full((3, 7, 2), VOCABULARY), "in the teacher's vocabulary they are from 0 to 49"),
        (torch.full((3, 7, 2), -1), "ids from -1 to -1"),
        (torch.zeros(3, 7, 0, dtype=torch.int32), r"give ids \[13, K\]"),
    ],
)
def test_queries_that_cannot_be_answered_are_refused(mine: Any, message: str) -> None:
    batch = batch_of("right")
    del batch["mine"]
    if mine is not None:
        batch["mine"] = mine
    with pytest.raises(ConfigurationError, match=message):
        CausalLMTeacher(tiny_models.llama(), candidates="mine")(batch)
    with pytest.raises(ConfigurationError, match="there is no knowledge to give"):
        CausalLMTeacher(tiny_models.llama(), key=None)
