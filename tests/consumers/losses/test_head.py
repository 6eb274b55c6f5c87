"""`Head`: what it computes, what it refuses, what its checksum covers, and heads of models."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from tutelage import ConfigurationError
from tutelage.losses import Head, Projection


def tensor(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_it_computes_what_its_docstring_says() -> None:
    hidden, weight, bias = tensor(5, 4, seed=1), tensor(9, 4), tensor(9, seed=2)
    head = Head(weight=weight, bias=bias, scale=0.5, softcap=2.0, vocabulary=7)
    product = 0.5 * (hidden @ weight.T + bias)[:, :7]
    torch.testing.assert_close(head.logits(hidden), 2 * torch.tanh(product / 2))
    torch.testing.assert_close(head(hidden.view(5, 1, 4)), head.logits(hidden)[:, None])
    assert Projection(hidden.view(5, 1, 4), head).shape == (5, 1, 7)


def test_its_norms_are_torch_s() -> None:
    hidden, weight, factors, bias = tensor(5, 4), tensor(9, 4), tensor(4, seed=3), tensor(4, seed=4)
    root = Head(weight=weight, norm="rms", norm_weight=factors, eps=1e-3)
    normed = functional.rms_norm(hidden, (4,), factors, 1e-3)
    torch.testing.assert_close(root.logits(hidden), normed @ weight.T)
    layer = Head(weight=weight, norm="layer", norm_weight=factors, norm_bias=bias, eps=1e-3)
    normed = functional.layer_norm(hidden, (4,), factors, bias, 1e-3)
    torch.testing.assert_close(layer.logits(hidden), normed @ weight.T)


@pytest.mark.parametrize(
    ("states", "weight", "product"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
        (torch.float64, torch.float32, torch.float64),
    ],
)
def test_the_product_has_the_dtype_to_which_its_factors_promote(
    states: torch.dtype, weight: torch.dtype, product: torch.dtype
) -> None:
    head, hidden = Head(weight=tensor(9, 4).to(weight)), tensor(5, 4).to(states)
    expected = hidden.to(product) @ head.weight.to(product).T
    assert head.logits(hidden).dtype == torch.promote_types(product, torch.float32)
    torch.testing.assert_close(head.logits(hidden), expected, check_dtype=False)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"weight": tensor(4)}, r"weight must be \[V, H\]"),
    ({"weight": torch.ones(4, 2, dtype=torch.int8)}, "of a floating dtype"),
    ({"bias": tensor(4)}, r"bias has the shape \[4\]; for a weight \[9, 4\] it must be \[9\]"),
    ({"norm": "rms", "norm_weight": tensor(9)}, r"norm_weight has the shape \[9\]"),
    ({"norm": "batch"}, "norm is 'batch'"),
    ({"norm_weight": tensor(4)}, "but norm is None"),
    ({"norm": "rms", "norm_bias": tensor(4)}, "an 'rms' norm has no bias"),
    ({"vocabulary": 10}, "vocabulary is 10 of 9 rows"),
    ({"scale": 0.0}, "scale is 0.0"),
    ({"softcap": 0.0}, "softcap is 0.0"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Head(**{"weight": tensor(9, 4), **arguments})


def test_a_projection_fits_its_head() -> None:
    head = Head(weight=tensor(9, 4), name="gpt")
    for hidden, message in (
        (tensor(5, 3), "width 3 do not fit Head 'gpt'"),
        (tensor(4), r"must be \[\.\.\., H\]"),
        (tensor(5, 4).long(), "torch.int64"),
        (tensor(5, 4).to("meta"), "hidden states are on meta"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            Projection(hidden, head)


def test_its_repr_says_what_it_does() -> None:
    head = Head(
        weight=tensor(9, 4).bfloat16(),
        bias=tensor(9),
        vocabulary=7,
        norm="rms",
        scale=2,
        name="gpt",
    )
    assert repr(head) == "Head 'gpt'(9 x 4 bfloat16, vocabulary 7, bias, rms norm, scale 2)"
    assert repr(Projection(tensor(5, 4), head)).startswith("Projection([5, 4], Head 'gpt'(")


def test_its_tensors_move_and_detach() -> None:
    head = Head(weight=tensor(9, 4).requires_grad_(), bias=tensor(9), softcap=3.0)
    there = head.to("meta")
    assert there.weight.is_meta and there.bias is not None and there.bias.is_meta
    assert there.softcap == 3.0 and there.vocabulary == 9
    assert not head.detached().weight.requires_grad


def test_the_checksum_covers_all_that_changes_the_logits_and_nothing_else() -> None:
    head = Head(
        weight=tensor(9, 4),
        bias=tensor(9, seed=1),
        norm="layer",
        norm_weight=tensor(4, seed=2),
        norm_bias=tensor(4, seed=3),
        vocabulary=7,
    )
    assert head.checksum() == Head(**vars(head)).checksum()
    assert len(head.checksum()) == 16 and int(head.checksum(), 16)

    def changed(name: str, place: int) -> torch.Tensor:
        copy = getattr(head, name).clone()
        copy[place] += 1
        return copy  # type: ignore[no-any-return]

    padded = replace(head, weight=changed("weight", 8), bias=changed("bias", 7), name="other")
    assert padded.checksum() == head.checksum()
    strided = replace(head, weight=head.weight.T.contiguous().T)
    assert strided.checksum() == head.checksum()
    others = [
        replace(head, weight=changed("weight", 6)),
        replace(head, bias=changed("bias", 6)),
        replace(head, bias=None),
        replace(head, norm_weight=changed("norm_weight", 0)),
        replace(head, norm_bias=changed("norm_bias", 0)),
        replace(head, norm_weight=None),
        replace(head, norm_bias=head.norm_weight, norm_weight=head.norm_bias),
        replace(head, eps=1e-5),
        replace(head, norm="rms", norm_bias=None),
        replace(head, scale=2.0),
        replace(head, softcap=30.0),
        replace(head, vocabulary=6),
        replace(head, weight=head.weight.double()),
    ]
    assert len({each.checksum() for each in [head, *others]}) == 1 + len(others)


def test_the_checksum_is_the_same_in_all_versions() -> None:
    weight = torch.arange(12, dtype=torch.float32).view(6, 2).bfloat16()
    assert Head(weight=weight, scale=0.5, vocabulary=5).checksum() == "ed96fa6b6cd4c1e7"


class FakeModel(torch.nn.Module):
    """What `Head.from_model` reads of a model of transformers."""

    def __init__(self, layer: torch.nn.Module | None = None, **config: Any) -> None:
        super().__init__()
        self.layer = layer or torch.nn.Linear(4, 9)
        self.config = SimpleNamespace(**config)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.layer


def test_a_model_s_head_has_its_own_tensors_and_settings() -> None:
    model = FakeModel(final_logit_softcapping=30.0, model_type="gemma2")
    head = Head.from_model(model, vocabulary=8, check=False)
    assert head.weight is model.layer.weight and head.bias is model.layer.bias
    assert head.softcap == 30 and head.vocabulary == 8 and head.scale == 1
    assert head.norm is None and head.name == "FakeModel"
    cohere = FakeModel(logit_scale=0.0625, model_type="cohere2")
    assert Head.from_model(cohere, check=False).scale == 0.0625
    granite = FakeModel(logits_scaling=8.0, model_type="granite")
    assert Head.from_model(granite, check=False).scale == 0.125


class Adapted(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (torch.nn.Linear(4, 9), "Linear is no model of transformers"),
        (FakeModel(is_encoder_decoder=True), "an encoder and a decoder"),
        (FakeModel(torch.nn.Embedding(9, 4)), "output embeddings are Embedding, no plain Linear"),
        (FakeModel(Adapted(4, 9)), "output embeddings are Adapted"),
        (FakeModel(logit_scale=2.0, model_type="mpt"), "logit_scale is 2.0, .*known for others"),
    ],
)
def test_a_model_whose_logits_are_not_known_is_refused(model: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Head.from_model(model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["Llama", "Gemma2", "Cohere", "Granite", "Phi", "Qwen2"])
def test_heads_of_real_models_give_the_models_logits(family: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        **({"logits_scaling": 3.0} if family == "Granite" else {}),
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    ids = torch.arange(14).view(2, 7)
    head = Head.from_model(model, check=ids)
    with torch.no_grad():
        torch.testing.assert_close(
            head.logits(model.base_model(input_ids=ids).last_hidden_state),
            model(input_ids=ids).logits,
        )
    head.weight.data[0] += 1
    original = model.forward
    model.forward = lambda **given: SimpleNamespace(logits=original(**given).logits * 1.5)
    with pytest.raises(ConfigurationError, match="does more after its last hidden state"):
        Head.from_model(model, check=ids)


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_does_more_is_found_without_being_asked() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        is_decoder=True,
    )
    model = transformers.BertLMHeadModel(config)
    with pytest.raises(ConfigurationError, match="does more after its last hidden state"):
        Head.from_model(model)
    assert all(module.training for module in model.modules())
    assert Head.from_model(model, check=False).vocabulary == 50


@pytest.mark.filterwarnings("ignore")
def test_dropout_is_no_difference() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.5, embd_pdrop=0.5
    )
    model = transformers.GPT2LMHeadModel(config).train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    Head.from_model(model)
    assert [module.training for module in model.modules()] == before
