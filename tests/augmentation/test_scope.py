"""`seeded`: the same draws in every process, and global generators that are left as they were."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random.mtrand import get_bit_generator, set_bit_generator
from torch.utils.data import DataLoader, Dataset

from tutelage import ConfigurationError
from tutelage.augmentation import Generators, seeded

SEEDS = [0, 1, -1, 12345, 2**32 + 1, 2**63 - 1, -(2**63)]


def draws() -> list[float]:
    """Two numbers of each library; torch's and numpy's normals keep a second one for later."""
    return [
        *torch.rand(1).tolist(),
        *torch.randn(1).tolist(),
        *np.random.rand(1).tolist(),
        float(np.random.standard_normal()),
        random.random(),
        random.gauss(0, 1),
    ]


def drawn(seed: Any) -> list[float]:
    with seeded(seed):
        return draws()


@pytest.fixture(autouse=True)
def global_seeds() -> None:
    """The same beginning for each test, whatever ran before it."""
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_gives_the_same_draws_again(seed: int) -> None:
    first = drawn(seed)
    draws()
    assert drawn(seed) == first


def test_every_bit_of_a_seed_counts_in_every_library() -> None:
    seeds = [*(1 << bit for bit in range(63)), *(-(1 << bit) for bit in range(64)), 0]
    for column in zip(*(drawn(seed) for seed in seeds), strict=True):
        assert len(set(column)) == len(seeds)


def test_a_seed_s_draws_never_change() -> None:
    # They are what stored seeds stand for. Rounded, because normals use the machine's logarithm.
    assert [round(number, 6) for number in drawn(2026)] == GOLDEN_DRAWS


@pytest.mark.parametrize("spelling", [np.int64(9), np.array(9), torch.tensor(9), torch.tensor([9])])
def test_a_seed_may_be_a_row_of_a_key(spelling: Any) -> None:
    assert drawn(spelling) == drawn(9)


@pytest.mark.parametrize(
    "wrong", [1.0, "7", None, True, 2**63, -(2**63) - 1, torch.tensor([1, 2]), torch.tensor(0.5)]
)
def test_what_is_no_int64_is_refused_at_the_call(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="one whole number that fits int64"):
        seeded(wrong)


def test_behind_a_block_the_global_generators_go_on_as_without_it() -> None:
    before, without = draws(), draws()
    global_seeds_again()
    assert draws() == before
    drawn(3)
    assert draws() == without


def test_an_exception_ends_a_block_like_its_end_does() -> None:
    before, without = draws(), draws()
    global_seeds_again()
    assert draws() == before
    with pytest.raises(ZeroDivisionError), seeded(3):
        draws()
        _ = 1 / 0
    assert draws() == without
    assert drawn(3) == drawn(3)


def test_a_block_within_a_block_does_not_change_what_the_outer_one_draws() -> None:
    with seeded(1):
        expected = draws() + draws()
    with seeded(1):
        got = draws()
        assert drawn(2) == drawn(2)
        with pytest.raises(KeyError), seeded(4):
            raise KeyError
        got += draws()
    assert got == expected


def test_another_bit_generator_behind_numpy_s_functions_is_seeded_and_restored_too() -> None:
    original = get_bit_generator()
    set_bit_generator(np.random.PCG64(1))
    try:
        without = np.random.rand(3)
        set_bit_generator(np.random.PCG64(1))
        assert drawn(1) == drawn(1)
        assert np.random.rand(3).tolist() == without.tolist()
    finally:
        set_bit_generator(original)
    assert drawn(1) == drawn(1)


def test_a_block_in_another_thread_is_refused_while_one_is_entered() -> None:
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            drawn(1)
        except ConfigurationError as error:
            errors.append(error)

    with seeded(2):
        expected = draws()
    with seeded(2):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert draws() == expected
    assert "another thread" in str(errors.pop())
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert not errors


def test_blocks_that_end_in_the_wrong_order_are_an_error() -> None:
    def suspended(seed: int) -> Iterator[float]:
        with seeded(seed):
            yield random.random()
            yield random.random()

    outer, inner = suspended(1), suspended(2)
    next(outer)
    next(inner)
    with pytest.raises(ConfigurationError, match="ended in another order"):
        list(outer)
    list(inner)
    assert drawn(1) == drawn(1)


def test_it_works_in_inference_mode_and_under_another_default_device() -> None:
    with torch.inference_mode():
        inside = drawn(6)
    assert inside == drawn(6)
    torch.set_default_device("meta")
    try:
        with seeded(6):
            number = torch.rand(1, device="cpu").item()
    finally:
        torch.set_default_device(None)
    assert number == inside[0]


def test_cuda_is_neither_initialised_nor_seeded_for_later() -> None:
    program = (
        "import torch; from tutelage.augmentation import seeded\n"
        "queued = len(torch.cuda._queued_calls)\n"
        "with seeded(1): torch.rand(1)\n"
        "print(torch.cuda.is_initialized(), len(torch.cuda._queued_calls) - queued)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["False", "0"]


@pytest.mark.gpu
def test_cuda_s_default_generators_are_seeded_and_restored() -> None:
    torch.cuda.init()
    torch.cuda.manual_seed_all(1)
    without = torch.rand(4, device="cuda")
    torch.cuda.manual_seed_all(1)
    with seeded(8):
        first = torch.rand(4, device="cuda")
    assert torch.equal(torch.rand(4, device="cuda"), without)
    with seeded(8):
        assert torch.equal(torch.rand(4, device="cuda"), first)


class Draws(Dataset[torch.Tensor]):
    """Each row's draws, from the row's number as seed."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> torch.Tensor:
        rng = Generators(row)
        own = [float(torch.rand(1, generator=rng.torch)), rng.numpy.random(), rng.random.random()]
        return torch.tensor([*drawn(row), *own], dtype=torch.float64)


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_draw_what_this_process_draws(start: str) -> None:
    here = torch.stack([Draws()[row] for row in range(12)])
    with seeded(99):
        loader = DataLoader(Draws(), batch_size=5, num_workers=2, multiprocessing_context=start)
        assert torch.equal(torch.cat(list(loader)), here)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_does_not_wait_for_the_parent_s_threads_to_leave_their_blocks() -> None:
    here = torch.stack([Draws()[row] for row in range(12)])
    inside, done = threading.Event(), threading.Event()

    def stay() -> None:
        with seeded(1):
            inside.set()
            done.wait(60)

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        assert inside.wait(60)
        loader = DataLoader(Draws(), batch_size=5, num_workers=1, multiprocessing_context="fork")
        assert torch.equal(torch.cat(list(loader)), here)
    finally:
        done.set()
        thread.join()


def global_seeds_again() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


GOLDEN_DRAWS = [0.367774, 0.805542, 0.417866, 0.053196, 0.018467, 0.896944]
