"""Causal language models as teachers: the logits are the model's own, at each token of each text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import tiny_models
from support.tiny_models import VOCABULARY
from transformers import PreTrainedModel

from tutelage import (
    ConfigurationError,
    MemorySink,
    MemorySource,
    MemoryTopic,
    Ragged,
    Sampled,
    Student,
    Teacher,
    TopK,
    write_head,
)
from tutelage.consumers.head_run import read_head
from tutelage.integrations.tokenizer_fingerprint import tokenizer_fingerprint
from tutelage.integrations.transformers import CausalLMTeacher
from tutelage.producers.stages.projected import Projected

MODELS = [
    tiny_models.llama,
    tiny_models.gpt2,
    tiny_models.gptj,
    tiny_models.gemma2,
    tiny_models.granite,
    tiny_models.cohere2,
    tiny_models.mixtral,
    tiny_models.falcon_h1,
]
# Falcon-H1 has layers that carry a state from one text of a row to the next.
PACKABLE = [make for make in MODELS if make is not tiny_models.falcon_h1]
LENGTHS = (7, 4, 1)
Make = Callable[[], PreTrainedModel]


def named(make: Make) -> str:
    return make.__name__


def texts() -> list[torch.Tensor]:
    """Texts of different length, int64 `[length]`."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in LENGTHS]


def padded(side: str, **more: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The texts as one batch, padded on one side; `more` are other values for each token."""
    columns = {
        "input_ids": texts(),
        "attention_mask": [torch.ones(length, dtype=torch.long) for length in LENGTHS],
        **more,
    }
    return {
        key: torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side=side)
        for key, rows in columns.items()
    }


def packed() -> dict[str, torch.Tensor]:
    """The texts in one row, one behind the other."""
    return {
        "input_ids": torch.cat(texts())[None],
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
    }


@torch.no_grad()
def own_logits(model: PreTrainedModel) -> torch.Tensor:
    """The model's logits of each text alone, `[tokens of all texts, vocabulary]`."""
    return torch.cat([model(input_ids=text[None]).logits[0] for text in texts()])


@torch.no_grad()
def given(teacher: CausalLMTeacher, batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = teacher(batch)
    return found


@torch.no_grad()
def logits_of(knowledge: dict[str, Any], key: str = "logits") -> torch.Tensor:
    """The logits of all positions, `[positions, vocabulary]`."""
    value = knowledge[key]
    assert isinstance(value, Projected)
    hidden = value.hidden.values if isinstance(value.hidden, Ragged) else value.hidden.flatten(0, 1)
    assert isinstance(hidden, torch.Tensor)
    return value.head(hidden)


def assert_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", MODELS, ids=named)
def test_the_logits_of_whole_rows_are_the_model_s_own(make: Make) -> None:
    model = make()
    ids = torch.stack([texts()[0], texts()[0].flip(0)])
    knowledge = given(CausalLMTeacher(model), {"input_ids": ids})
    with torch.no_grad():
        assert_same(logits_of(knowledge), model(input_ids=ids).logits.flatten(0, 1))
    assert knowledge["logits"].hidden.shape == (2, 7, 16)
    assert torch.equal(knowledge["input_ids"], ids.int())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS, ids=named)
def test_padding_on_either_side_leaves_the_logits_as_they_are(make: Make, side: str) -> None:
    model = make()
    knowledge = given(CausalLMTeacher(model), padded(side))
    assert_same(logits_of(knowledge), own_logits(model))
    assert knowledge["logits"].hidden.lengths.tolist() == list(LENGTHS)
    assert torch.equal(knowledge["input_ids"].values, torch.cat(texts()).int())
    assert knowledge["input_ids"].lengths.tolist() == list(LENGTHS)


@pytest.mark.parametrize("make", PACKABLE, ids=named)
def test_packed_texts_do_not_see_each_other(make: Make) -> None:
    model = make()
    knowledge = given(CausalLMTeacher(model), packed())
    assert_same(logits_of(knowledge), own_logits(model))
    assert torch.equal(knowledge["position_ids"], packed()["position_ids"].int())


@pytest.mark.parametrize("positions", ["from 0", "from the row's begin"])
def test_packed_rows_may_have_padding_on_the_left(positions: str) -> None:
    model = tiny_models.llama()
    batch = padded("left")
    counted = batch["attention_mask"].cumsum(1) - 1
    whole = torch.arange(max(LENGTHS)).expand_as(counted)
    batch["position_ids"] = counted.clamp(min=0) if positions == "from 0" else whole
    # Rotary positions are relative, so both ways give the same states.
    assert_same(logits_of(given(CausalLMTeacher(model), batch)), own_logits(model))


@pytest.mark.parametrize("wire", [Sampled(25), TopK(5)], ids=str)
def test_a_student_gets_the_same_from_padding_on_either_side(wire: Any) -> None:
    targets = []
    for side in ("left", "right"):
        topic = MemoryTopic()
        with Teacher(MemorySink(topic), run_id="logits", wire={"logits": wire}) as teacher:
            teacher.serve(CausalLMTeacher(tiny_models.llama()), [padded(side)])
        student = Student()
        student.register_teacher(MemorySource(topic))
        with student:
            (batch,) = student.knowledge(3)
        assert batch["input_ids"][0].tolist() == texts()[0].tolist()
        targets.append(batch["logits"])
    first, second = targets
    assert first.lengths.tolist() == second.lengths.tolist() == list(LENGTHS)
    assert first.entries.tolist() == second.entries.tolist()
    assert torch.equal(first.ids, second.ids)
    torch.testing.assert_close(first.probabilities(), second.probabilities())


def test_a_model_whose_packed_texts_see_each_other_is_refused() -> None:
    teacher = CausalLMTeacher(tiny_models.falcon_h1())
    given(teacher, padded("left"))
    with pytest.raises(ConfigurationError, match=r"see what is before it .* \(row 0, position 7\)"):
        given(teacher, packed())


@pytest.mark.parametrize("share", [1.0, 1e-3])
def test_the_first_packed_batch_of_one_row_and_that_of_several_are_checked(share: float) -> None:
    model = tiny_models.llama()

    def mix(decoder: Any, given: Any, found: Any) -> None:
        """Adds a share of the previous token's state, in batches of several rows only."""
        states = found.last_hidden_state
        if len(states) > 1:
            found.last_hidden_state = states + share * states.roll(1, dims=1)

    model.model.register_forward_hook(mix)
    teacher = CausalLMTeacher(model)
    batch = packed()
    two = {name: torch.cat([values, values]) for name, values in batch.items()}
    given(teacher, batch)
    with pytest.raises(ConfigurationError, match="lets a text see what is before it"):
        given(teacher, two)


def test_what_the_model_would_read_and_the_teacher_does_not_is_refused() -> None:
    teacher = CausalLMTeacher(tiny_models.gpt2())
    batch = padded("right")
    for name in ("token_type_ids", "inputs_embeds"):
        with pytest.raises(ConfigurationError, match=rf"the batch has \['{name}'\], which GPT2LM"):
            given(teacher, {**batch, name: torch.zeros_like(batch["input_ids"])})
    # The model would not read these.
    given(teacher, {**batch, "sample": torch.arange(3)})
    given(CausalLMTeacher(tiny_models.llama()), {**batch, "token_type_ids": batch["input_ids"]})


def test_a_model_that_is_not_a_decoder_and_a_head_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="OPTForCausalLM cannot be divided"):
        given(CausalLMTeacher(tiny_models.opt()), padded("right"))


def test_the_head_is_exact_to_the_bit_for_the_same_positions() -> None:
    for make in (tiny_models.gemma2, tiny_models.granite):
        model = make()
        ids = texts()[0][None]
        with torch.no_grad():
            wanted = model(input_ids=ids).logits[0]
        assert torch.equal(logits_of(given(CausalLMTeacher(model), {"input_ids": ids})), wanted)


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_the_positions_before_trained_tokens_are_kept(side: str) -> None:
    model = tiny_models.llama()
    trained = [torch.zeros(length, dtype=torch.long) for length in LENGTHS]
    # The first token of a text is predicted by nothing.
    trained[0][[0, 3, 6]] = 1
    trained[1][2] = 1
    batch = padded(side, loss_mask=trained)
    knowledge = given(CausalLMTeacher(model), batch)
    assert_same(logits_of(knowledge), own_logits(model)[[2, 5, 8]])
    assert knowledge["logits"].hidden.lengths.tolist() == [2, 1, 0]
    assert knowledge["kept"].values.nonzero().flatten().tolist() == [2, 5, 8]
    assert knowledge["kept"].lengths.tolist() == list(LENGTHS)


def test_labels_are_read_as_transformers_reads_them() -> None:
    batch = padded("right")
    labels = torch.where(batch["attention_mask"] != 0, batch["input_ids"], -100)
    labels[0, :5] = -100
    knowledge = given(CausalLMTeacher(tiny_models.llama()), {**batch, "labels": labels})
    assert knowledge["kept"].values.nonzero().flatten().tolist() == [4, 5, 7, 8, 9]


def test_the_last_token_of_a_packed_text_does_not_predict_the_next_text() -> None:
    batch = packed()
    batch["loss_mask"] = torch.ones_like(batch["input_ids"])
    knowledge = given(CausalLMTeacher(tiny_models.llama()), batch)
    assert knowledge["kept"].nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4, 5, 7, 8, 9]


def test_rows_of_the_head_that_are_no_tokens_are_cut_off() -> None:
    model = tiny_models.llama()
    knowledge = given(CausalLMTeacher(model, vocabulary=43), padded("right"))
    assert_same(logits_of(knowledge), own_logits(model)[:, :43])
    assert knowledge["logits"].vocabulary == 43
    with pytest.raises(ConfigurationError, match="vocabulary is 51, and the model's head has 50"):
        CausalLMTeacher(model, vocabulary=51)


@pytest.mark.parametrize("make", MODELS, ids=named)
def test_hidden_states_and_the_head_give_the_logits(make: Make) -> None:
    model = make()
    teacher = CausalLMTeacher(model, key=None, hidden=True, vocabulary=43)
    knowledge = given(teacher, padded("left"))
    assert "logits" not in knowledge
    topic = MemoryTopic()
    write_head(MemorySink(topic), teacher.head())
    head = read_head(MemorySource(topic))
    assert_same(head.logits(knowledge["hidden"].values), own_logits(model)[:, :43])


def test_logits_and_hidden_states_come_together_under_a_key_of_their_own() -> None:
    teacher = CausalLMTeacher(tiny_models.llama(), key="big", hidden=True, carry=("row",))
    knowledge = given(teacher, {**padded("right"), "row": torch.tensor([5, 6, 7])})
    assert knowledge.keys() == {"row", "input_ids", "hidden", "big"}
    assert knowledge["row"].tolist() == [5, 6, 7]
    assert torch.equal(knowledge["big"].hidden.values, knowledge["hidden"].values)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_models.llama()
    modules, names = dict(model._modules), set(vars(model))
    teacher = CausalLMTeacher(model)
    logits_of(given(teacher, padded("left")))
    assert dict(model._modules) == modules and set(vars(model)) == names
    # A replica on another device has parameters of its own.
    copied = copy.deepcopy(teacher)
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    assert logits_of(given(copied, padded("left"))).any()
    assert not logits_of(given(teacher, padded("left"))).any()


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 3), "a batch must be a mapping with input_ids"),
        ({"tokens": torch.zeros(2, 3)}, "a batch must be a mapping with input_ids"),
        ({"input_ids": torch.zeros(3)}, r"this one is a one with \[3\]"),
        (
            {"input_ids": torch.zeros(2, 3), "loss_mask": torch.zeros(2, 2)},
            r"loss_mask is \[2, 2\], and input_ids \[2, 3\]",
        ),
    ],
)
def test_a_batch_that_is_no_batch_of_tokens_is_refused(batch: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        CausalLMTeacher(tiny_models.llama())(batch)


def test_a_model_that_is_no_causal_language_model_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the model is a Linear; give a PreTrainedModel"):
        CausalLMTeacher(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="LlamaModel has no language-model head"):
        CausalLMTeacher(tiny_models.llama().base_model)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="there is no knowledge to give"):
        CausalLMTeacher(tiny_models.llama(), key=None)
    with pytest.raises(ConfigurationError, match="carry names 'row', and the batch has"):
        CausalLMTeacher(tiny_models.llama(), carry=["row"])(padded("left"))


class Tokenizer:
    """What a fingerprint is made of."""

    def __init__(self, tokens: list[str], **special: str) -> None:
        self._tokens = tokens
        self.special_tokens_map = special

    def get_vocab(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self._tokens)}


def test_a_fingerprint_stands_for_what_each_id_means() -> None:
    tokens = ["<s>", "a", "b"]
    wanted = tokenizer_fingerprint(Tokenizer(tokens, bos_token="<s>"))
    assert wanted == "a515d3b2ec547019"
    # The choice of a padding token changes no id: many set pad_token = eos_token before they train.
    assert wanted == tokenizer_fingerprint(Tokenizer(tokens, pad_token="<s>"))
    others = [Tokenizer(["<s>", "b", "a"], bos_token="<s>"), Tokenizer([*tokens, "c"])]
    assert wanted not in {tokenizer_fingerprint(other) for other in others}
    with pytest.raises(ConfigurationError, match="a list has no vocabulary"):
        tokenizer_fingerprint([])
