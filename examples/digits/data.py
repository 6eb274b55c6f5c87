"""Scikit-learn's digits, split for each seed into images for teachers, student and test."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CLASSES = 10
FEW_LABELS = 50
TEST_ROWS = 500
TRANSFER_ROWS = 797
#: The digits of each expert. It has all labels of these, and a few of each other digit.
EXPERTISE = {"svm": (0, 1, 2, 3), "forest": (4, 5, 6), "cnn": (7, 8, 9)}
OTHER_LABELS_PER_CLASS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One seed's data. Images are float32 [rows, 64] from 0 to 1, labels int64 [rows].

    Args:
        seed: The seed.
        teaching: The images that the teachers train on, with labels (500 rows).
        transfer: The images that the teachers label and the student learns from (797 rows). Of the
            labels only those in `few` are used.
        test: The images that accuracy is measured on, with labels (500 rows).
        few: Indices into `transfer` of the few labels that the student has.
    """

    seed: int
    teaching: tuple[Array, Array] = field(repr=False)
    transfer: tuple[Array, Array] = field(repr=False)
    test: tuple[Array, Array] = field(repr=False)
    few: Array = field(repr=False)


@cache
def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.data / 16).astype(np.float32), loaded.target.astype(np.int64)


def split(seed: int) -> Split:
    """The split of a seed. It is the same in every process."""
    images, labels = _digits()
    order = np.random.default_rng(seed).permutation(len(images))
    test, transfer, teaching = np.split(order, [TEST_ROWS, TEST_ROWS + TRANSFER_ROWS])
    return Split(
        seed=seed,
        teaching=(images[teaching], labels[teaching]),
        transfer=(images[transfer], labels[transfer]),
        test=(images[test], labels[test]),
        few=np.arange(FEW_LABELS),
    )


def seen_by(teacher: str, data: Split) -> tuple[Array, Array]:
    """A teacher's training images and labels: all of its own digits, three of each other digit."""
    images, labels = data.teaching
    expert = np.isin(labels, EXPERTISE[teacher])
    others = [
        np.flatnonzero(labels == digit)[:OTHER_LABELS_PER_CLASS]
        for digit in range(CLASSES)
        if digit not in EXPERTISE[teacher]
    ]
    chosen = np.concatenate([np.flatnonzero(expert), *others])
    return images[chosen], labels[chosen]
