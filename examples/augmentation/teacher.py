"""The teacher: sees random crops, and writes its logits with their seeds, and no images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tutelage import FileSink, Teacher
from tutelage.augmentation import seeds_for, versions
from tutelage.examples.augmentation.data import CLASSES, Images
from tutelage.examples.augmentation.network import Network, fit
from tutelage.examples.augmentation.views import view_of

_WIDTH = 12
_CROPS, _ROUNDS = 4, 3


class Views(Dataset[dict[str, torch.Tensor]]):
    """A view of each image in each pass, with its seed and what was drawn.

    The seed of a row depends on the name, the pass and the row alone, so workers may make the
    views, in any order.

    Args:
        name: What tells these seeds from others.
        images: The images.
        pass_index: The pass; a teacher sets it by `set_epoch`.
    """

    def __init__(self, name: str, images: Images, pass_index: int = 0) -> None:
        self._name = name
        self._images = images
        self._pass_index = pass_index

    def set_epoch(self, epoch: int) -> None:
        self._pass_index = epoch

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        (seed,) = seeds_for(self._name, self._pass_index, [row])
        pixels, crop, flip = view_of(self._images.pixels[row], seed)
        return {
            "row": torch.tensor(row, dtype=torch.int32),
            "seed": seed,
            "crop": crop,
            "flip": flip,
            "pixels": pixels,
        }


class Knows(nn.Module):
    """What the teacher writes: all keys of its input but the pixels, and the logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        kept = {key: value for key, value in batch.items() if key != "pixels"}
        return {**kept, "logits": self.network(batch["pixels"])}


def trained(images: Images, *, crops: int = _CROPS, rounds: int = _ROUNDS) -> Network:
    """Train the teacher on the labels.

    Args:
        images: The images.
        crops: How many crops of each image it sees.
        rounds: How many times it sees each of them.

    Returns:
        The teacher.
    """
    seen = [
        view["pixels"]
        for index in range(crops)
        for view in map(Views("training", images, index).__getitem__, range(len(images)))
    ]
    labels = functional.one_hot(images.labels, CLASSES).float().repeat(crops, 1)
    return fit(Network(_WIDTH, seed=0), torch.stack(seen), labels, rounds=rounds, seed=0)


def teach(path: Path, network: Network, images: Images, *, name: str, passes: int) -> None:
    """Write a file with what the teacher says of its crops, in several passes.

    Args:
        path: The file.
        network: The teacher.
        images: The images.
        name: The name of the seeds.
        passes: How many crops of each image.
    """
    with Teacher(
        FileSink(path, overwrite=True),
        name="teacher",
        inputs_fingerprint=f"digits on photographs, seeds {name}; {versions('scikit-learn')}",
        passes=passes,
        wire={"logits": "float16"},
    ) as teacher:
        teacher.serve(Knows(network), DataLoader(Views(name, images), batch_size=256))
