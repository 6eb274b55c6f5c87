"""`seeds_for`: a seed for each row, from its name, its pass and its number alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage import ConfigurationError
from tutelage.augmentation import seeds_for


def test_seeds_never_change() -> None:
    assert seeds_for("digits", 3, [0, 1, 2**40]).tolist() == GOLDEN


@given(
    rows=st.lists(st.integers(0, 2**62), max_size=50),
    pass_index=st.integers(0, 1000),
    cut=st.integers(0, 50),
)
def test_batches_and_the_order_of_rows_change_nothing(
    rows: list[int], pass_index: int, cut: int
) -> None:
    together = seeds_for("run", pass_index, rows)
    assert together.dtype == torch.int64 and together.shape == (len(rows),)
    parts = [seeds_for("run", pass_index, part) for part in (rows[:cut], rows[cut:])]
    assert torch.equal(torch.cat(parts), together)
    alone = [int(seeds_for("run", pass_index, torch.tensor([row]))) for row in rows]
    assert together.tolist() == alone


def test_a_count_of_rows_means_the_rows_from_0() -> None:
    assert torch.equal(seeds_for("run", 0, 7), seeds_for("run", 0, range(7)))
    assert not len(seeds_for("run", 0, 0))


def test_no_two_rows_passes_or_names_share_a_seed() -> None:
    seeds = [
        seeds_for(name, pass_index, 20_000)
        for name in ("a", "b", "0", "0\0a")
        for pass_index in range(4)
    ]
    assert len(torch.cat(seeds).unique()) == 16 * 20_000


def test_each_bit_is_set_in_half_of_the_seeds_and_neighbours_are_unrelated() -> None:
    rows = 100_000
    seeds = seeds_for("run", 0, rows)
    following = seeds.roll(-1) ^ seeds
    across = seeds_for("run", 1, rows) ^ seeds
    for words in (seeds, following, across):
        set_bits = torch.stack([(words >> bit & 1).sum() for bit in range(64)])
        # Five standard deviations of a fair coin; the seeds are fixed, so this passes always.
        assert (set_bits - rows / 2).abs().max() < 5 * rows**0.5 / 2


@pytest.mark.parametrize(
    "wrong", [-1, [-1], [0.5], ["1"], [[1, 2]], True, None, torch.tensor(3), [[1], [2, 3]]]
)
def test_rows_that_are_no_numbers_from_0_are_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="rows is"):
        seeds_for("run", 0, wrong)


@pytest.mark.parametrize(("name", "pass_index"), [("", 0), (7, 0), ("run", -1), ("run", 0.5)])
def test_a_name_is_a_text_and_a_pass_a_number(name: Any, pass_index: Any) -> None:
    with pytest.raises(ConfigurationError):
        seeds_for(name, pass_index, 1)


GOLDEN = [5461785979708342941, -6730676228762143024, -5034212720591495268]
