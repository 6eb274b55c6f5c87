"""The inputs of both teachers, 0, 1, ... max_n - 1, in the three forms that Pantheon has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from tutelage import from_sample_lists, from_samples

GENERATOR_TYPES = ("sample_generator", "sample_list_generator", "batch_generator")


def inputs_of(generator_type: str, *, max_n: int, batch_size: int) -> Callable[[], Iterator[Any]]:
    """A function that returns the numbers for one pass, as batches int64 [batch_size, 1]."""

    def samples() -> Iterator[torch.Tensor]:
        for number in range(max_n):
            yield torch.tensor([number])

    def sample_lists() -> Iterator[list[torch.Tensor]]:
        for start in range(0, max_n, batch_size):
            yield [
                torch.tensor([number]) for number in range(start, min(start + batch_size, max_n))
            ]

    def batches() -> Iterator[torch.Tensor]:
        for start in range(0, max_n, batch_size):
            yield torch.arange(start, min(start + batch_size, max_n)).reshape(-1, 1)

    if generator_type == "sample_generator":
        return from_samples(samples, batch_size)
    if generator_type == "sample_list_generator":
        return from_sample_lists(sample_lists)
    return batches
