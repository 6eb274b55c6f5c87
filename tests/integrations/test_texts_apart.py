"""A text in its row is compared with the same text alone, as exactly as the model computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.integrations.texts_apart import are_equal

STATES = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("dtype", "exact", "error", "equal"),
    [
        (torch.float32, True, 1e-6, True),
        (torch.float32, True, 1e-3, False),
        # Another precision than that of the weights, as with autocast.
        (torch.float32, False, 1e-3, True),
        (torch.float32, False, 0.5, False),
        (torch.bfloat16, True, 1e-2, True),
        (torch.bfloat16, True, 0.5, False),
    ],
)
def test_an_error_beyond_the_models_own_is_another_texts(
    dtype: torch.dtype, exact: bool, error: float, equal: bool
) -> None:
    model = nn.Linear(8, 8, dtype=dtype)
    assert are_equal(model, STATES * (1 + error), STATES, exact=exact) == equal


def test_what_is_not_a_number_is_not_equal_and_zeros_are() -> None:
    model, zeros = nn.Linear(8, 8), torch.zeros(4, 8)
    assert are_equal(model, zeros, zeros, exact=True)
    assert not are_equal(model, STATES, zeros, exact=True)
    assert not are_equal(model, STATES / 0.0 * 0.0, STATES, exact=True)


def test_quantized_layers_are_not_exact() -> None:
    class FromQuantization(nn.Module):
        """A layer without parameters, as those that torch quantizes."""

    FromQuantization.__module__ = "torch.ao.nn.quantized.dynamic.modules.linear"
    model = nn.Sequential(nn.Linear(8, 8), FromQuantization())
    assert are_equal(model, STATES * 1.04, STATES, exact=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_precision_that_was_set_by_the_newer_functions_can_be_asked_for() -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        model = nn.Linear(8, 8, device="cuda")
        states = STATES.cuda()
        assert are_equal(model, states * 1.001, states, exact=True)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
