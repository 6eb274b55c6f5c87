"""Three teachers: a support vector machine, a random forest and a convolutional network.

For each seed, each is trained on the images of `data.seen_by`. It predicts probabilities, float32
[rows, 10].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from tutelage import Lesson
from tutelage.examples.digits.data import CLASSES, EXPERTISE, Array, Split, seen_by, split

TEACHERS = tuple(EXPERTISE)
BATCH_SIZE = 64
_CNN_EPOCHS = 30

Classifier = Callable[[Array], Array]


def trained(kind: str, data: Split) -> Classifier:
    """A teacher trained on its part of a split: images [rows, 64] -> probabilities [rows, 10]."""
    images, labels = seen_by(kind, data)
    if kind == "cnn":
        return _trained_cnn(images, labels, data.seed)
    if kind == "svm":
        from sklearn.svm import SVC

        # A softmax of the decision values, because the machine's own calibration needs many labels.
        machine = SVC(gamma=0.6, C=10, decision_function_shape="ovr").fit(images, labels)
        return lambda x: _softmax(np.asarray(machine.decision_function(x)))
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, random_state=data.seed).fit(images, labels)
    return lambda x: np.asarray(forest.predict_proba(x), np.float32)


def lesson(kind: str, seeds: int) -> Lesson:
    """The lesson of a teacher: one pass per seed, over the seed's transfer images.

    Its keys are `row` (int64 [rows], the sample id that is compared between teachers) and
    `probabilities` (float32 [rows, 10]). Each pass is served by the teacher of its seed.
    """
    upcoming = iter(range(seeds))
    current: dict[int, Classifier] = {}

    def batches() -> Iterator[dict[str, Any]]:
        data = split(next(upcoming))
        images = data.transfer[0]
        for start in range(0, len(images), BATCH_SIZE):
            rows = np.arange(start, min(start + BATCH_SIZE, len(images)))
            yield {"seed": np.full(len(rows), data.seed), "row": rows, "image": images[rows]}

    def model(batch: dict[str, Any]) -> dict[str, Array]:
        seed = int(batch["seed"][0])
        if seed not in current:
            current.clear()
            current[seed] = trained(kind, split(seed))
        return {"row": batch["row"], "probabilities": current[seed](batch["image"])}

    return Lesson(
        model=model,
        inputs=batches,
        name=kind,
        inputs_fingerprint=f"digits, transfer rows, seeds 0 to {seeds - 1}",
        passes=seeds,
    )


def _softmax(values: Array) -> Array:
    shifted = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


class _Cnn(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 16, CLASSES),
        )  # fmt: skip


def _trained_cnn(images: Array, labels: Array, seed: int) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _Cnn()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    with torch.enable_grad():
        for _ in range(_CNN_EPOCHS):
            for rows in torch.split(torch.randperm(len(x), generator=generator), 64):
                loss = nn.functional.cross_entropy(network(x[rows]), y[rows])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
    network.eval()
    return lambda wanted: _probabilities(network, wanted)


def _probabilities(network: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        return np.asarray(network(torch.from_numpy(images)).softmax(1).numpy())
