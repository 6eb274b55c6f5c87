"""The student: has the images, reads seeds and logits, and makes the teacher's crops again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from tutelage import FileSource, RunMismatch, Student
from tutelage.augmentation import check_versions
from tutelage.examples.augmentation.data import Images
from tutelage.examples.augmentation.network import Network, fit
from tutelage.examples.augmentation.views import View, view_of

_WIDTH = 8


def knowledge_of(path: Path) -> Iterator[dict[str, torch.Tensor]]:
    """The batches of all passes of a teacher's file.

    Raises:
        RunMismatch: The teacher's libraries have other versions here.
    """
    source = FileSource(path)
    check_versions(source.open(timeout_s=60).stream.inputs_fingerprint)
    student = Student()
    student.register_teacher(source)
    with student:
        for _ in range(student.passes):
            yield from student.knowledge(batch_size=256)


def repeated(batch: Mapping[str, torch.Tensor], images: Images) -> torch.Tensor:
    """Make the teacher's crops of a batch again, from the rows' seeds.

    Args:
        batch: A batch of the teacher's knowledge.
        images: The images that the teacher had.

    Returns:
        uint8 [rows, 3, 32, 32].

    Raises:
        RunMismatch: A seed gives another crop here than the one that the teacher stored.
    """
    views = _views(batch, images, batch["seed"])
    for at, view in enumerate(views):
        if not (torch.equal(view.crop, batch["crop"][at]) and view.flip == batch["flip"][at]):
            raise RunMismatch(
                f"image {int(batch['row'][at])}: seed {int(batch['seed'][at])} gives the crop "
                f"{view.crop.tolist()} here, and the teacher saw {batch['crop'][at].tolist()}. Has "
                "the augmentation changed? `cut` makes the views from the stored crops, without drawing"
            )
    return torch.stack([view.pixels for view in views])


def mismatched(batch: Mapping[str, torch.Tensor], images: Images) -> torch.Tensor:
    """Other crops of the same images: what a student sees that does not know the seeds.

    Args:
        batch: A batch of the teacher's knowledge.
        images: The images that the teacher had.

    Returns:
        uint8 [rows, 3, 32, 32].
    """
    # A seed that differs in one bit stands for an unrelated crop.
    return torch.stack([view.pixels for view in _views(batch, images, batch["seed"] ^ 1)])


def _views(batch: Mapping[str, torch.Tensor], images: Images, seeds: torch.Tensor) -> list[View]:
    rows = zip(batch["row"].tolist(), seeds.tolist(), strict=True)
    return [view_of(images.pixels[row], seed) for row, seed in rows]


def learn(pixels: torch.Tensor, logits: torch.Tensor, *, rounds: int, seed: int) -> Network:
    """Train a new student on views and the teacher's logits (Hinton et al. 2015).

    Args:
        pixels: uint8 [n, 3, 32, 32].
        logits: float32 [n, 10].
        rounds: How many times it sees them all.
        seed: The seed of its weights and of the order of the views.

    Returns:
        The student.
    """
    return fit(Network(_WIDTH, seed), pixels, logits.softmax(1), rounds=rounds, seed=seed)
