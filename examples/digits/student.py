"""The student: a small network that learns from few labels or from the teachers' probabilities."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from tutelage.examples.digits.data import CLASSES, Split

HIDDEN = 16
STEPS = 400
BATCH_SIZE = 64


def accuracy_after(targets: torch.Tensor, images: torch.Tensor, data: Split) -> float:
    """Train a new student, and measure its accuracy.

    The loss is the cross entropy with the targets (Hinton et al. 2015, at temperature 1).

    Args:
        targets: Target probabilities, float32 [rows, 10]. A label is a target with a single 1.
        images: float32 [rows, 64].
        data: The split, for its seed and its test images.

    Returns:
        The accuracy on the test images, from 0 to 1.
    """
    generator = torch.Generator().manual_seed(data.seed)
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        student = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    done = 0
    while done < STEPS:
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH_SIZE):
            loss = nn.functional.cross_entropy(student(images[rows]), targets[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            done += 1
    wanted = torch.from_numpy(data.test[1])
    with torch.no_grad():
        return float((student(torch.from_numpy(data.test[0])).argmax(1) == wanted).float().mean())


def from_few_labels(data: Split) -> float:
    """The accuracy of a student that learns from the few labels alone."""
    images = torch.from_numpy(data.transfer[0][data.few])
    targets = nn.functional.one_hot(torch.from_numpy(data.transfer[1][data.few]), CLASSES).float()
    return accuracy_after(targets, images, data)


def from_knowledge(batches: Iterable[dict[str, torch.Tensor]], data: Split) -> float:
    """The accuracy of a student that learns from merged knowledge and the few labels."""
    taught = list(batches)
    targets = torch.cat([batch["probabilities"] for batch in taught])
    rows = torch.cat([batch["row"] for batch in taught])
    labels = torch.from_numpy(data.transfer[1][data.few])
    targets[torch.from_numpy(data.few)] = nn.functional.one_hot(labels, CLASSES).to(targets.dtype)
    return accuracy_after(targets.float(), torch.from_numpy(data.transfer[0])[rows], data)
