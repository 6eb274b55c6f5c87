"""Systematic draws are unbiased and exact, and depend on their place alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.encoded import uniform_of

from tutelage.producers.stages.places import Place
from tutelage.producers.stages.uniforms import philox, uniforms
from tutelage.producers.stages.vector_encoding import (
    draw,
)

PLACE = Place(stream="run", pass_index=0, batch=0, first_row=0)


def distributions() -> dict[str, torch.Tensor]:
    """Logits `[vocabulary]`: peaked, flat, long-tailed, and with masked entries."""
    generator = torch.Generator().manual_seed(7)
    large = torch.randn(260_000, generator=generator)
    zipf = -1.1 * torch.arange(1, 50_001).log()
    masked = torch.randn(300, generator=generator)
    masked[::3] = -math.inf
    return {
        "peaked": torch.randn(1000, generator=generator) * 6,
        "flat": torch.zeros(37),
        "one id": torch.tensor([0.0]),
        "long tail": zipf,
        "260,000 entries": large,
        "masked": masked,
        "shifted far": torch.tensor([1e4, 1e4 + 1, 1e4 - 3]),
    }


@pytest.fixture(params=distributions())
def logits(request: pytest.FixtureRequest) -> torch.Tensor:
    return distributions()[request.param]


def counts_of(ids: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Draws `[positions, draws]` -> counts `[positions, vocabulary]`."""
    counts = torch.zeros(len(ids), vocabulary, dtype=torch.int64)
    return counts.scatter_add_(1, ids, torch.ones_like(ids))


@pytest.mark.parametrize("draws", [1, 25, 63, 255])
def test_each_count_is_the_floor_or_the_ceiling_of_its_share(
    logits: torch.Tensor, draws: int
) -> None:
    weights = torch.softmax(logits, -1).expand(40, -1)
    counts = counts_of(draw(weights, draws, uniform_of(40)), len(logits))
    expected = draws * weights.double() / weights.double().sum(-1, keepdim=True)
    assert torch.equal(counts.sum(1), torch.full((40,), draws))
    assert bool((counts >= torch.floor(expected - 1e-9)).all())
    assert bool((counts <= torch.ceil(expected + 1e-9)).all())
    assert not bool(counts[weights == 0].any()), "an id without probability was drawn"


def test_the_mean_of_many_draws_is_the_distribution(logits: torch.Tensor) -> None:
    draws, repeats = 25, 2000 if len(logits) < 10_000 else 60
    p = torch.softmax(logits.double(), -1)
    weights = torch.softmax(logits, -1).expand(repeats, -1)
    mean = counts_of(draw(weights, draws, uniform_of(repeats, 1)), len(logits)).double().mean(0)
    # A count takes two neighbouring values, so its variance is that of one Bernoulli trial.
    share = draws * p
    fraction = share - share.floor()
    error = (fraction * (1 - fraction) / repeats).sqrt()
    # 6 standard errors, and one draw in all repeats for ids that are hardly ever drawn.
    assert bool(((mean - share).abs() <= 6 * error + 2 / repeats).all())
    # Groups of rare ids are hit as often as they should be: a lost tail would show here.
    for low in (0, len(logits) // 2, 9 * len(logits) // 10):
        spread = math.sqrt(draws / repeats)
        assert abs(float(mean[low:].sum() - share[low:].sum())) <= 6 * spread


def test_a_float32_sum_of_a_long_tail_would_be_biased() -> None:
    """The trap that `draw` avoids: the same draws from float32 sums miss the tail."""
    weights = torch.ones(1, 260_000)
    weights[0, 0] = 2.0**24
    repeats, draws = 400, 255
    share = 260_000 * draws / float(weights.double().sum())

    def tail(cumulative: torch.Tensor) -> float:
        at = (torch.arange(draws) + uniform_of(repeats)[:, None]) / draws
        at = at * cumulative[-1]
        ids = torch.searchsorted(cumulative, at.to(cumulative.dtype), right=True)
        return float((ids > 0).double().sum(1).mean())

    ours = draw(weights.expand(repeats, -1), draws, uniform_of(repeats))
    assert abs(float((ours > 0).double().sum(1).mean()) - share) < 0.1 * share
    naive = np.cumsum(weights[0].numpy(), dtype=np.float32)
    assert tail(torch.from_numpy(naive)) == 0.0


def test_philox_gives_its_known_answers() -> None:
    """From the authors' Random123: examples/kat_vectors, philox4x32 10."""
    cases = [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, answer in cases:
        words = philox([torch.tensor([word]) for word in counter], key)
        assert " ".join(f"{int(word):08x}" for word in words) == answer


def test_uniforms_depend_on_the_place_alone() -> None:
    rows, positions = torch.arange(6).repeat_interleave(50), torch.arange(50).repeat(6)
    whole = uniforms(PLACE, "logits", 6, rows, positions)
    assert bool(((whole >= 0) & (whole < 1)).all())
    assert len(set(whole.tolist())) == 300
    behind = Place(stream="run", pass_index=0, batch=9, first_row=4)
    part = uniforms(behind, "logits", 2, rows[:100], positions[:100])
    assert torch.equal(part, whole[200:]), "the same rows in another batch"
    others = [
        Place(stream="run", pass_index=1, batch=0, first_row=0),
        Place(stream="another", pass_index=0, batch=0, first_row=0),
        Place(stream="run", pass_index=0, batch=0),
        Place(stream="run", pass_index=0, batch=1),
        Place(stream="run", pass_index=0, batch=1, first_row=0, rows=7),
    ]
    found = [whole, *(uniforms(place, "logits", 6, rows, positions) for place in others)]
    found.append(uniforms(PLACE, "other", 6, rows, positions))
    assert len({tuple(each.tolist()) for each in found}) == len(found) - 1
    assert torch.equal(found[4], found[5]), "both are batch 1 of rows that cannot be counted"


@pytest.mark.gpu
def test_uniforms_are_the_same_on_a_gpu() -> None:
    row, position = torch.arange(50).repeat_interleave(40), torch.arange(40).repeat(50)
    there = uniforms(PLACE, "logits", 50, row.cuda(), position.cuda())
    assert torch.equal(there.cpu(), uniforms(PLACE, "logits", 50, row, position))
