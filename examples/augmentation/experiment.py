"""The experiment: students that repeat the teacher's crops against students with other crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tutelage.examples.augmentation.data import Images
from tutelage.examples.augmentation.network import Network, accuracy, divergence
from tutelage.examples.augmentation.student import knowledge_of, learn, mismatched, repeated
from tutelage.examples.augmentation.teacher import teach
from tutelage.examples.augmentation.views import view_of
from tutelage.examples.digits.run import interval

REPEATED, OTHER = "the teacher's crops, from seeds", "other crops of the same images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """What the experiment found.

    Args:
        teacher: The teacher's accuracy on the images held out.
        bytes_of_files: The size of each seed's file of knowledge.
        accuracies: Per kind of student, the accuracy of each seed's on the images held out.
        divergences: Per kind of student, KL(teacher || student) of each seed's, in nats, on crops
            of the images held out.
    """

    teacher: float
    bytes_of_files: list[int] = field(default_factory=list)
    accuracies: dict[str, list[float]] = field(default_factory=lambda: {REPEATED: [], OTHER: []})
    divergences: dict[str, list[float]] = field(default_factory=lambda: {REPEATED: [], OTHER: []})


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """A teacher, and two students for each seed.

    Args:
        teacher: The teacher.
        images: The images that it writes its knowledge of.
        held_out: The images that students are measured on.
        folder: Where files of knowledge are written.
        seeds: How many seeds. Each has its own crops, first weights and order.
        passes: How many crops of each image the teacher sees.
        rounds: How many times a student sees each of them.
        say: Called with a line of progress.
    """

    teacher: Network = field(repr=False)
    images: Images
    held_out: Images
    folder: Path
    seeds: int
    passes: int
    rounds: int
    say: Callable[[str], None] = field(repr=False)

    def run(self) -> Results:
        """Teach, learn and measure.

        Raises:
            RunMismatch: A seed gave the student another crop than the teacher's.
        """
        results = Results(
            teacher=accuracy(self.teacher, self.held_out.pixels, self.held_out.labels)
        )
        crops = torch.stack(
            [view_of(image, row).pixels for row, image in enumerate(self.held_out.pixels)]
        )
        for seed in range(self.seeds):
            path = self.folder / f"seed-{seed}.avro"
            name = f"experiment {seed}"
            teach(path, self.teacher, self.images, name=name, passes=self.passes)
            results.bytes_of_files.append(path.stat().st_size)
            batches = list(knowledge_of(path))
            logits = torch.cat([batch["logits"] for batch in batches])
            for kind, views in ((REPEATED, repeated), (OTHER, mismatched)):
                pixels = torch.cat([views(batch, self.images) for batch in batches])
                student = learn(pixels, logits, rounds=self.rounds, seed=seed)
                right = accuracy(student, self.held_out.pixels, self.held_out.labels)
                apart = divergence(self.teacher, student, crops)
                results.accuracies[kind].append(right)
                results.divergences[kind].append(apart)
                self.say(f"seed {seed}, {kind}: accuracy {right:.3f}, KL {apart:.3f}")
        return results

    @property
    def views(self) -> int:
        """Views in a file of knowledge."""
        return self.passes * len(self.images)


def report(experiment: Experiment, results: Results) -> str:
    """The results in Markdown."""
    stored = results.bytes_of_files[0] / experiment.views
    with_pixels = stored + experiment.images.pixels[0].numel()
    lines = [
        f"{experiment.views:,} views in a file of {results.bytes_of_files[0]:,} bytes: {stored:.0f} "
        f"bytes a view, and {with_pixels:,.0f} if the crops were stored, "
        f"{with_pixels / stored:.0f} times as many.",
        f"The teacher's accuracy is {100 * results.teacher:.1f} %.",
        "",
        "| the student sees | accuracy, % | KL to the teacher, nats |",
        "| --- | --- | --- |",
    ]
    for kind, accuracies in results.accuracies.items():
        right, apart = _percent(accuracies), _nats(results.divergences[kind])
        lines.append(f"| {kind} | {right} | {apart} |")
    gained = _differences(results.accuracies)
    nearer = _differences(results.divergences)
    lines += [
        "",
        f"In pairs of {len(gained)} seeds, the teacher's crops against other crops: accuracy "
        f"{_percent(gained, '+')} points, KL {_nats(nearer, '+')}.",
    ]
    return "\n".join(lines)


def _differences(values: dict[str, list[float]]) -> list[float]:
    return [ours - others for ours, others in zip(values[REPEATED], values[OTHER], strict=True)]


def _percent(values: Sequence[float], sign: str = "") -> str:
    mean, half = interval([100 * value for value in values])
    return f"{mean:{sign}.1f} ± {half:.1f}"


def _nats(values: Sequence[float], sign: str = "") -> str:
    mean, half = interval(values)
    return f"{mean:{sign}.3f} ± {half:.3f}"
