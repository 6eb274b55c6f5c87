"""Random crops and flips of images: an ordinary augmentation, and the same one from a seed."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch
from torch.nn import functional

from tutelage.augmentation import seeded
from tutelage.examples.augmentation.data import SIDE

_LEAST_AREA = 0.25
_MOST_RATIO = 4 / 3


class View(NamedTuple):
    """What a model sees of an image, and how it came about.

    Args:
        pixels: uint8 [3, 32, 32].
        crop: int16 [4]: top, left, height and width of the crop in the image.
        flip: bool []: whether it was flipped from left to right.
    """

    pixels: torch.Tensor
    crop: torch.Tensor
    flip: torch.Tensor


def random_view(image: torch.Tensor) -> View:
    """Crop an image at random, resize the crop to the image's size, and flip half of all crops.

    It draws from the global generators of torch and of `random`, as most augmentations do, and
    knows nothing of seeds.

    Args:
        image: uint8 [3, 32, 32].

    Returns:
        The view.
    """
    area = SIDE * SIDE * float(torch.empty(1).uniform_(_LEAST_AREA, 1))
    ratio = _MOST_RATIO ** float(torch.empty(1).uniform_(-1, 1))
    height = min(SIDE, round((area / ratio) ** 0.5))
    width = min(SIDE, round((area * ratio) ** 0.5))
    top = int(torch.randint(SIDE - height + 1, (1,)))
    left = int(torch.randint(SIDE - width + 1, (1,)))
    crop = torch.tensor([top, left, height, width], dtype=torch.int16)
    flip = torch.tensor(random.random() < 0.5)
    return View(pixels=cut(image, crop, flip), crop=crop, flip=flip)


def cut(image: torch.Tensor, crop: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Make a view from what was drawn, without drawing.

    Args:
        image: uint8 [3, 32, 32].
        crop: int16 [4]: top, left, height and width.
        flip: bool [].

    Returns:
        The view's pixels, uint8 [3, 32, 32].
    """
    top, left, height, width = crop.tolist()
    part = image[None, :, top : top + height, left : left + width].float()
    pixels = functional.interpolate(part, (SIDE, SIDE), mode="bilinear")[0]
    return (pixels.flip(2) if flip else pixels).round().to(torch.uint8)


def view_of(image: torch.Tensor, seed: int | torch.Tensor) -> View:
    """The view of an image that a seed stands for: the same in every process."""
    with seeded(seed):
        return random_view(image)
