"""`Generators`: streams of one's own from a seed."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from tutelage import ConfigurationError
from tutelage.augmentation import Generators, seeded


def draws(rng: Generators) -> list[float]:
    return [
        float(torch.rand(1, generator=rng.torch)),
        float(rng.numpy.random()),
        rng.random.random(),
    ]


def test_their_draws_never_change() -> None:
    assert [round(number, 6) for number in draws(Generators(2026))] == GOLDEN_DRAWS


def test_they_depend_on_nothing_but_the_seed_and_what_was_drawn() -> None:
    expected = draws(Generators(3))
    torch.manual_seed(8)
    with seeded(3) as rng:
        torch.rand(3)
        assert rng.seed == 3
        assert draws(rng) == expected
    again = Generators(3)
    # In another order.
    assert [again.random.random(), float(again.numpy.random())] == expected[:0:-1]


def test_the_streams_of_a_seed_are_different_ones() -> None:
    with seeded(3) as rng:
        assert torch.rand(1) != torch.rand(1, generator=rng.torch)
        assert len({round(number, 6) for number in draws(rng)}) == 3


def test_threads_may_use_them_beside_each_other() -> None:
    expected = {seed: draws(Generators(seed)) for seed in range(8)}
    found: dict[int, list[float]] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: draws(Generators(seed))}))
        for seed in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


@pytest.mark.parametrize("wrong", [0.5, "1", True, 2**63])
def test_what_is_no_int64_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="seed is"):
        Generators(wrong)


def test_they_say_their_seed() -> None:
    assert repr(Generators(torch.tensor(-4))) == "Generators(-4)"


GOLDEN_DRAWS = [0.934143, 0.06089, 0.230142]
