"""The experiment: teach, learn online, record, learn from recordings, report what merging gains.

python run.py --seeds 20 --out_folder results             with the broker of `tutelage stack up`
python run.py --seeds 20 --out_folder results --offline   through files alone
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tutelage import (
    DataError,
    FileSink,
    FileSource,
    KafkaSink,
    KafkaSource,
    Sink,
    Source,
    Student,
    Teacher,
)
from tutelage.examples.digits.data import EXPERTISE, split
from tutelage.examples.digits.student import from_few_labels, from_knowledge
from tutelage.examples.digits.teachers import TEACHERS, lesson, trained
from tutelage.examples.toy.flags import exit_with, kafka_flags, positive

Accuracies = dict[str, list[float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Where each teacher's knowledge is written to and read from, by the teacher's name."""

    sink: Callable[[str], Sink]
    source: Callable[[str], Source]


def file_places(folder: Path) -> Places:
    """Avro files in a folder."""
    return Places(
        sink=lambda name: FileSink(folder / f"{name}.avro", overwrite=True),
        source=lambda name: FileSource(folder / f"{name}.avro"),
    )


def topic_places(prefix: str, bootstrap_servers: str | None, registry: str | None) -> Places:
    """Kafka topics with a common prefix."""
    return Places(
        sink=lambda name: KafkaSink(
            f"{prefix}-{name}", bootstrap_servers=bootstrap_servers, registry=registry
        ),
        source=lambda name: KafkaSource(
            f"{prefix}-{name}", bootstrap_servers=bootstrap_servers, registry=registry
        ),
    )


def teach(places: Places, seeds: int) -> None:
    """Let each teacher write its knowledge, one pass per seed."""
    for name in TEACHERS:
        given = lesson(name, seeds)
        with Teacher(
            places.sink(name), name=name, inputs_fingerprint=given.inputs_fingerprint, passes=seeds
        ) as teacher:
            teacher.serve(given.model, given.inputs)


def learn(source: Callable[[str], Source], seeds: int) -> Accuracies:
    """The accuracies, seed by seed, of students of each teacher and of all teachers merged."""
    found: Accuracies = {}
    for names in (*((name,) for name in TEACHERS), TEACHERS):
        student = Student(
            merge={"probabilities": "mean"} if len(names) > 1 else {}, sample_id="row"
        )
        for name in names:
            student.register_teacher(source(name))
        with student:
            label = names[0] if len(names) == 1 else "merged"
            found[label] = [
                from_knowledge(student.knowledge(64, pass_index=seed), split(seed))
                for seed in range(seeds)
            ]
    return found


def teachers_themselves(seeds: int) -> Accuracies:
    """The accuracies of the teachers on the test images, and that of their mean."""
    found: Accuracies = {name: [] for name in (*TEACHERS, "merged")}
    for seed in range(seeds):
        data = split(seed)
        predicted = {name: trained(name, data)(data.test[0]) for name in TEACHERS}
        predicted["merged"] = np.mean([predicted[name] for name in TEACHERS], axis=0)
        for name, probabilities in predicted.items():
            found[name].append(float((probabilities.argmax(1) == data.test[1]).mean()))
    return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    spread = math.sqrt(
        sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)
    )
    return mean, float(t.ppf(0.975, len(values) - 1)) * spread


def table(students: Mapping[str, Sequence[float]], teachers: Mapping[str, Sequence[float]]) -> str:
    """The results in Markdown: a table, and what merging gained."""
    lines = ["| taught by | student, test accuracy | teacher itself |", "| --- | --- | --- |"]
    for name, values in students.items():
        own = _percent(teachers[name]) if name in teachers else "-"
        expert = f" (expert on {', '.join(map(str, EXPERTISE[name]))})" if name in EXPERTISE else ""
        lines.append(f"| {name}{expert} | {_percent(values)} | {own} |")
    best = max(TEACHERS, key=lambda name: sum(students[name]))
    for other in ("few labels", best):
        gain = [
            merged - alone
            for merged, alone in zip(students["merged"], students[other], strict=True)
        ]
        mean, half = interval(gain)
        verdict = (
            "more" if mean - half > 0 else "less" if mean + half < 0 else "not distinguishable from"
        )
        lines.append(
            f"\nMerged against {other}, paired by seed: "
            f"{100 * mean:+.1f} ± {100 * half:.1f} points ({verdict})."
        )
    return "\n".join(lines)


def _percent(values: Sequence[float]) -> str:
    mean, half = interval(values)
    return f"{100 * mean:.1f} ± {100 * half:.1f} %"


def plot(
    students: Mapping[str, Sequence[float]], teachers: Mapping[str, Sequence[float]], path: Path
) -> None:
    """Plot the table: a dot for each seed, with the mean and the interval beside them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    for at, (name, values) in enumerate(students.items()):
        mean, half = interval(values)
        axes.plot(
            [at - 0.12] * len(values),
            [100 * v for v in values],
            "o",
            color="#9aa5b1",
            markersize=3.5,
            alpha=0.7,
        )
        axes.errorbar(
            at + 0.05,
            100 * mean,
            yerr=100 * half,
            fmt="o",
            color="#1f5fa8",
            capsize=4,
            label="student" if not at else None,
        )
        if name in teachers:
            axes.plot(
                at + 0.22,
                100 * interval(teachers[name])[0],
                "D",
                color="#c2571a",
                label="teacher itself" if name == TEACHERS[0] else None,
            )
    axes.set_xticks(range(len(students)), list(students))
    axes.set_ylabel("test accuracy, %")
    axes.set_title(
        f"Digits: what a student learns, {len(next(iter(students.values())))} seeds, "
        "mean and 95 % interval",
        fontsize=10,
    )
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def experiment(
    seeds: int,
    folder: Path,
    online: tuple[str | None, str | None] | None,
    say: Callable[[str], None],
) -> str:
    """Run the experiment, and write `results.md`, `results.json` and `results.png` to the folder.

    Args:
        seeds: How many seeds, from 0.
        folder: Where the results and the files of knowledge are written.
        online: The addresses of broker and registry. If None, knowledge goes through files alone.
        say: Called with a line of progress.

    Returns:
        The table, in Markdown.

    Raises:
        DataError: The students that learned online differ from those that learned from recordings.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    students: Accuracies = {"few labels": [from_few_labels(split(seed)) for seed in range(seeds)]}
    say(f"few labels alone: {_percent(students['few labels'])}")
    files = file_places(folder)
    if online is None:
        teach(files, seeds)
        students |= learn(files.source, seeds)
    else:
        topics = topic_places(f"digits-{time.time_ns() // 10**6}", *online)
        teach(topics, seeds)
        say(f"three teachers wrote {seeds} passes each to their topics")
        students |= learn(topics.source, seeds)
        _record(topics, files)
        replayed = learn(files.source, seeds)
        if any(students[name] != values for name, values in replayed.items()):
            raise DataError(
                "the students that learned from the recordings differ from those that learned "
                "online"
            )
        say(
            "students that learned online and from the recordings have the same accuracies, seed "
            "by seed"
        )
    teachers = teachers_themselves(seeds)
    text = table(students, teachers)
    (folder / "results.md").write_text(
        f"{seeds} seeds, mean and 95 % confidence interval.\n\n{text}\n", encoding="utf-8"
    )
    (folder / "results.json").write_text(
        json.dumps({"students": students, "teachers": teachers}, indent=1), encoding="utf-8"
    )
    plot(students, teachers, folder / "results.png")
    return text


def _record(topics: Places, files: Places) -> None:
    from tutelage.tools.copy import copy_stream

    for name in TEACHERS:
        source, sink = topics.source(name), files.sink(name)
        try:
            copy_stream(source, sink, timeout_s=60)
        finally:
            source.close()
            sink.close()


def main() -> None:
    """Run the experiment with the flags' settings, and print the table."""
    parser = argparse.ArgumentParser(
        description="Distil three experts on digits into a small student."
    )
    parser.add_argument(
        "--seeds", type=positive, default=20, help="repeat with this many seeds (default: 20)"
    )
    parser.add_argument(
        "--out_folder",
        type=Path,
        default=Path("digits-results"),
        help="write the results to this folder (default: digits-results)",
    )
    parser.add_argument("--offline", action="store_true", help="use files alone, without a broker")
    kafka_flags(parser)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    online = None if given.offline else (given.bootstrap_servers, given.registry)
    print(
        experiment(given.seeds, given.out_folder, online, lambda line: print(line, file=sys.stderr))
    )


if __name__ == "__main__":
    exit_with(main)
