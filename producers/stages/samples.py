"""Samples or lists of samples -> functions that return batches, for `Teacher.serve`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

from torch.utils.data import default_collate

from tutelage.producers.stages.ownership import owned_if_possible
from tutelage.schemas.arguments import check_flag, check_whole_number
from tutelage.schemas.errors import ConfigurationError


class CollatedSamples(Iterator[Any]):
    """Batches that torch's default collation makes of samples; each has new memory."""

    def __init__(
        self, samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool
    ) -> None:
        self._batches = _collated(samples, batch_size, drop_last=drop_last)

    def __next__(self) -> Any:
        return next(self._batches)

    def close(self) -> None:
        """Close the generator of samples."""
        self._batches.close()


def _collated(
    samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool
) -> Generator[Any, None, None]:
    pending: list[Any] = []
    for sample in samples():
        # The source may reuse the memory for its next sample. `default_collate` raises for samples
        # that it does not support.
        pending.append(owned_if_possible(sample))
        if len(pending) == batch_size:
            yield default_collate(pending)
            pending = []
    if pending and not drop_last:
        yield default_collate(pending)


def from_samples(
    samples: Callable[[], Iterable[Any]], batch_size: int, *, drop_last: bool = False
) -> Callable[[], Iterator[Any]]:
    """Turn a function that returns single samples into inputs (Pantheon's sample generator).

    Args:
        samples: A function without arguments that returns an iterable of samples. It is called once
            per pass. A sample is what torch's `default_collate` accepts: tensors, arrays, numbers,
            or tuples, lists and dicts of them.
        batch_size: Samples per batch.
        drop_last: Whether to drop a shorter last batch.

    Returns:
        A function that returns an iterator of batches, for `Teacher.serve`.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """
    _check_function("samples", samples, "samples")
    size, drop = check_whole_number("batch_size", batch_size), check_flag("drop_last", drop_last)
    return lambda: CollatedSamples(samples, size, drop_last=drop)


def from_sample_lists(lists: Callable[[], Iterable[list[Any]]]) -> Callable[[], Iterator[Any]]:
    """Turn a function that returns lists of samples into inputs (Pantheon's sample list generator).

    Args:
        lists: A function without arguments that returns an iterable of lists. It is called once per
            pass. Torch's `default_collate` makes one batch of each list.

    Returns:
        A function that returns an iterator of batches, for `Teacher.serve`.

    Raises:
        ConfigurationError: `lists` is not a function.
    """
    _check_function("lists", lists, "lists of samples")

    def batches() -> Iterator[Any]:
        return (default_collate(samples) for samples in lists())

    return batches


def _check_function(name: str, value: Any, content: str) -> None:
    if not callable(value):
        raise ConfigurationError(
            f"{name} is a {type(value).__name__}; give a function without arguments that returns "
            f"an iterable of {content}"
        )
