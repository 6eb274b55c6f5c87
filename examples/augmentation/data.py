"""Scikit-learn's digits over pieces of its two photographs: 1,797 small colour images.

Each pixel is the absolute difference of digit and photograph, as in MNIST-M (Ganin and Lempitsky
2015, "Unsupervised Domain Adaptation by Backpropagation"). The photographs are darkened, so that
small networks can see the digits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import torch
from torch.nn import functional

SIDE = 32
CLASSES = 10
HELD_OUT = 797
_DIGIT_SIDE = 28
#: Pieces are this large in the photograph, and then halved, so that there is something in them.
_PIECE = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Images:
    """Images, uint8 [n, 3, 32, 32], and their labels, int64 [n]."""

    pixels: torch.Tensor = field(repr=False)
    labels: torch.Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.pixels)


@cache
def load() -> tuple[Images, Images]:
    """The images to teach with, and those held out. They are the same in every process."""
    from sklearn.datasets import load_digits, load_sample_images

    photographs = [torch.tensor(each).permute(2, 0, 1) for each in load_sample_images().images]
    digits = load_digits()
    size = (_DIGIT_SIDE, _DIGIT_SIDE)
    large = functional.interpolate(
        torch.tensor(digits.images)[:, None] * (255 / 16), size, mode="bilinear"
    )
    margin = (SIDE - _DIGIT_SIDE) // 2
    drawn = functional.pad(large, [margin] * 4)
    generator = torch.Generator().manual_seed(0)

    def piece() -> torch.Tensor:
        which, down, right = torch.rand(3, generator=generator).tolist()
        photograph = photographs[int(which * len(photographs))]
        top = int(down * (photograph.shape[1] - _PIECE))
        left = int(right * (photograph.shape[2] - _PIECE))
        return photograph[:, top : top + _PIECE : 2, left : left + _PIECE : 2] // 2

    pixels = torch.stack([(piece() - digit).abs().round().to(torch.uint8) for digit in drawn])
    labels = torch.tensor(digits.target, dtype=torch.int64)
    taught, held_out = torch.randperm(len(pixels), generator=generator).tensor_split(
        [len(pixels) - HELD_OUT]
    )
    return (
        Images(pixels=pixels[taught], labels=labels[taught]),
        Images(pixels=pixels[held_out], labels=labels[held_out]),
    )
