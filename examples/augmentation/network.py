"""A small convolutional network, for teacher and student, and how it is trained."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from tutelage.examples.augmentation.data import CLASSES

_LEARNING_RATE = 6e-3
_BATCH_SIZE = 128


class Network(nn.Module):
    """Three convolutions and a linear layer. uint8 [n, 3, 32, 32] -> logits float32 [n, 10].

    Args:
        width: Channels of the first convolution; each further one has twice as many.
        seed: The seed of its weights.
    """

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
                layers += [nn.Conv2d(before, after, 3, stride=2, padding=1)]
                layers += [nn.BatchNorm2d(after), nn.ReLU()]
            layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, CLASSES)]
            self.layers = nn.Sequential(*layers)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(pixels.float() / 128 - 1)
        return logits


def fit(
    network: Network, pixels: torch.Tensor, targets: torch.Tensor, *, rounds: int, seed: int
) -> Network:
    """Train a network, in place.

    Args:
        network: The network.
        pixels: uint8 [n, 3, 32, 32].
        targets: Target probabilities, float32 [n, 10].
        rounds: How many times it sees them all.
        seed: The seed of the order in which it sees them.

    Returns:
        The same network, in eval mode.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters())
    steps = rounds * -(-len(pixels) // _BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, steps)
    network.train()
    for _ in range(rounds):
        for rows in torch.split(torch.randperm(len(pixels), generator=generator), _BATCH_SIZE):
            loss = functional.cross_entropy(network(pixels[rows]), targets[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return network.eval()


@torch.no_grad()
def accuracy(network: Network, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of images that a network names rightly, from 0 to 1."""
    return float((network(pixels).argmax(1) == labels).float().mean())


@torch.no_grad()
def divergence(teacher: Network, student: Network, pixels: torch.Tensor) -> float:
    """The mean of KL(teacher || student) over images, in nats."""
    ours, theirs = student(pixels).log_softmax(1), teacher(pixels).log_softmax(1)
    return float(functional.kl_div(ours, theirs, reduction="batchmean", log_target=True))
