"""Draws one picture per benchmark: bars of the sides' rates, as ratios to the first side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import VALUES, Comparison


def plot_ratios(name: str, comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw the ratios. The bars of a comparison are a group under its title."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [
        (
            comparison.title.removeprefix(f"{name}: "),
            side.name,
            side.ratio(comparison.sides[0], VALUES["rate"]),
            index,
        )
        for comparison in comparisons
        for index, side in enumerate(comparison.sides)
        if not comparison.times
    ]
    if not rows:
        return
    figure, axes = plt.subplots(
        figsize=(9, 0.9 + 0.24 * (len(rows) + len(comparisons))), layout="constrained"
    )
    at, ticks, labels = 0.0, [], []
    for title, side, ratio, index in rows:
        if index == 0:
            at += 1
            axes.text(
                0.01,
                at - 0.62,
                title,
                fontsize=7,
                transform=axes.get_yaxis_transform(),
                va="center",
            )
        color = (
            "0.75"
            if index == 0
            else "tab:blue"
            if side.startswith(("tutelage", "two"))
            else "tab:orange"
        )
        axes.barh(at, ratio, color=color, height=0.8)
        axes.text(ratio, at, f" {ratio:.2f}", va="center", fontsize=7)
        ticks.append(at)
        labels.append(side)
        at += 1
    axes.set_yticks(ticks, labels, fontsize=7)
    axes.invert_yaxis()
    axes.axvline(1, color="0.5", lw=0.8)
    axes.set_xlabel("ratio to the first side, medians of alternated rounds")
    axes.set_title(f"{name}: bytes of tensors a second")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
