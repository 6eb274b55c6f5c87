"""The results: one row a variant and seed in a file, from which the table and the plot are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.examples.language_model.report import interval, paired
from tutelage.examples.on_policy.variants import ALL, OFF_POLICY, START

#: What is shown of each student: its name in a row, and its heading.
SCORES = (
    ("own_reverse_kl", "KL(s ‖ t), own texts"),
    ("kl", "KL(t ‖ s), held out"),
    ("cross_entropy", "cross-entropy, held out"),
)
_ORDER = (START, *(variant.name for variant in ALL))


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One student.

    Args:
        variant: What it learned from.
        seed: Its seed.
        settings: All that must be equal for rows to be compared.
        tokens: Positions with a loss that it was trained on in the comparison.
        cross_entropy: Of the true tokens of the text that was held out, in nats.
        kl: KL(teacher || student) on it, in nats.
        acceptance: The share of its tokens there that the teacher would accept; from 0 to 1.
        own_reverse_kl: KL(student || teacher) on texts that it wrote, in nats.
        answer_bytes: Bytes of answers for each of the tokens.
        query_bytes: Bytes of queries for each of the tokens.
        seconds: What its training took, with waiting for answers.
    """

    variant: str
    seed: int
    settings: str
    tokens: int
    cross_entropy: float
    kl: float
    acceptance: float
    own_reverse_kl: float
    answer_bytes: float = 0.0
    query_bytes: float = 0.0
    seconds: float = 0.0


def ordered(rows: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """The rows in the order of the tables."""
    return {name: rows[name] for name in _ORDER if name in rows}


def summary(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Each variant's means, half widths of 95 % intervals, and differences in pairs."""
    found: dict[str, dict[str, Any]] = {}
    for name, given in ordered(rows).items():
        found[name] = {"seeds": len(given), "tokens": given[0].tokens}
        for score, _ in (*SCORES, ("acceptance", "")):
            mean, half = interval([getattr(row, score) for row in given])
            found[name][score] = {"mean": mean, "half": half}
            more = paired(rows, name, score, OFF_POLICY)
            if more is not None:
                found[name][f"{score}_in_pairs"] = {"mean": more[0], "half": more[1]}
        for cost in ("answer_bytes", "query_bytes", "seconds"):
            found[name][cost] = interval([getattr(row, cost) for row in given])[0]
    return found


def table(rows: Mapping[str, Sequence[Row]]) -> str:
    """Two tables in Markdown: the scores, and their differences from off-policy in pairs."""
    found = ordered(rows)
    headings = [heading for _, heading in SCORES]
    costs = ["tokens", "seeds", "bytes a token: answers, queries"]
    lines = [_line("student", *headings, *costs), _line(*["---"] * 7)]
    for name, given in found.items():
        cells = [
            "{:.3f} ± {:.3f}".format(*interval([getattr(row, score) for row in given]))
            for score, _ in SCORES
        ]
        first = given[0]
        size = f"{first.answer_bytes:.0f}, {first.query_bytes:.0f}" if first.answer_bytes else "-"
        lines.append(_line(name, *cells, f"{first.tokens:,}", str(len(given)), size))
    lines += ["", _line("more than off-policy, in pairs", *headings), _line(*["---"] * 4)]
    for name in found:
        more = [paired(rows, name, score, OFF_POLICY) for score, _ in SCORES]
        if None not in more:
            lines.append(_line(name, *("{:+.3f} ± {:.3f}".format(*each) for each in more if each)))
    return "\n".join(lines)


def plot(rows: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Plot both divergences: a dot a seed, means and intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = ordered(rows)
    figure, panels = pyplot.subplots(
        1, 2, figsize=(9.5, 1.2 + 0.4 * len(found)), layout="constrained", sharey=True
    )
    for axes, (score, heading) in zip(panels, SCORES, strict=False):
        for at, given in enumerate(found.values()):
            values = [getattr(row, score) for row in given]
            mean, half = interval(values)
            axes.plot(values, [at + 0.18] * len(values), "o", color="#9aa5b1", markersize=3.5)
            axes.errorbar(mean, at - 0.08, xerr=half, fmt="o", color="#1f5fa8", capsize=4)
        axes.set_xlabel(f"{heading}, nats (less is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    panels[0].set_yticks(range(len(found)), list(found))
    panels[0].invert_yaxis()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
