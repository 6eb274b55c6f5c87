"""The cross-entropy of drawn ids: its value, gradient and second derivatives are those of torch's operators."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage.consumers.losses.entries import LEAST, Entries
from tutelage.consumers.losses.sampled import drawn_cross_entropy


def _entries(counts: list[int], vocabulary: int, generator: torch.Generator) -> Entries:
    """Entries of positions with these numbers of different ids, with weights that add up to 1."""
    ids = [torch.randperm(vocabulary, generator=generator)[:count] for count in counts]
    weights = [torch.rand(count, generator=generator) for count in counts]
    number = torch.tensor(counts, dtype=torch.int64)
    return Entries(
        ids=torch.cat(ids),
        owners=torch.repeat_interleave(torch.arange(len(counts)), number),
        counts=number,
        weights=torch.cat([weight / weight.sum() for weight in weights if len(weight)] or weights),
    )


def _expected(logits: torch.Tensor, entries: Entries) -> torch.Tensor:
    """The definition, by a loop over the entries."""
    log_probs = torch.log_softmax(logits, -1).clamp_min(LEAST)
    found = list((0 * log_probs).sum(-1))
    for owner, each, weight in zip(entries.owners, entries.ids, entries.weights, strict=True):
        found[int(owner)] = found[int(owner)] - weight * log_probs[owner, each]
    return torch.stack(found)


@given(
    counts=st.lists(st.integers(0, 7), min_size=1, max_size=5),
    scale=st.sampled_from([0.0, 1.0, 30.0, 2000.0]),
    seed=st.integers(0, 2**31),
)
def test_value_and_gradient_are_those_of_the_definition(
    counts: list[int], scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    entries = _entries(counts, 7, generator)
    logits = torch.randn(len(counts), 7, generator=generator, dtype=torch.float64) * scale
    outer = torch.randn(len(counts), generator=generator, dtype=torch.float64)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, expected = drawn_cross_entropy(ours, entries), _expected(theirs, entries)
    torch.testing.assert_close(value, expected)
    torch.autograd.backward([(value * outer).sum(), (expected * outer).sum()])
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_gradient_and_its_gradient_pass_the_numerical_check() -> None:
    generator = torch.Generator().manual_seed(1)
    entries = _entries([3, 0, 5], 9, generator)
    logits = torch.randn(3, 9, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: drawn_cross_entropy(x, entries), logits)
    assert torch.autograd.gradgradcheck(lambda x: drawn_cross_entropy(x, entries), logits)


def test_an_id_that_the_student_excludes_costs_a_bounded_amount_and_has_no_gradient() -> None:
    entries = Entries(
        ids=torch.tensor([0, 2]),
        owners=torch.tensor([0, 0]),
        counts=torch.tensor([2]),
        weights=torch.tensor([0.25, 0.75]),
    )
    logits = torch.tensor([[-math.inf, 1.0, 1.0]], requires_grad=True)
    value = drawn_cross_entropy(logits, entries)
    torch.testing.assert_close(value, torch.tensor([-0.25 * LEAST + 0.75 * math.log(2)]))
    torch.autograd.backward(value)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.375, -0.375]]))


def test_a_probability_that_float32_rounds_to_zero_keeps_its_logarithm() -> None:
    entries = Entries(
        ids=torch.tensor([1]),
        owners=torch.tensor([0]),
        counts=torch.tensor([1]),
        weights=torch.tensor([1.0]),
    )
    logits = torch.tensor([[0.0, -500.0]])
    torch.testing.assert_close(drawn_cross_entropy(logits, entries), torch.tensor([500.0]))
