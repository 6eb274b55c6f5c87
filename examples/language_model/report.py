"""The results: one row a variant and seed in a file, from which the table and the plot are made."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from tutelage import ConfigurationError

#: What is shown of each student: its name in a row, its heading, and how it is written.
_SCORES = (
    ("cross_entropy", "cross-entropy", "{:.3f} ± {:.3f}"),
    ("kl", "KL to the teacher", "{:.3f} ± {:.3f}"),
    ("acceptance", "accepted, %", "{:.1f} ± {:.1f}"),
    ("calibration_error", "calibration error, %", "{:.1f} ± {:.1f}"),
)
_PERCENT = ("acceptance", "calibration_error")
# Students of one seed begin with the same weights, so they are compared in pairs with those that
# learn from all logits.
_BASELINE = "dense"


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One student.

    Args:
        variant: What it learned from.
        seed: Its seed.
        settings: All that must be equal for rows to be compared.
        tokens: Tokens that it was trained on, repetitions counted.
        cross_entropy: See `Scores`; so are the next three.
        kl: In nats.
        acceptance: From 0 to 1.
        calibration_error: From 0 to 1.
        bytes_per_token: The bytes of knowledge that it read for each token.
        encoding_s_per_token: The seconds that its teachers took to encode and write each token.
        student_s_per_token: The seconds that it took for each token.
    """

    variant: str
    seed: int
    settings: str
    tokens: int
    cross_entropy: float
    kl: float
    acceptance: float
    calibration_error: float
    bytes_per_token: float
    encoding_s_per_token: float
    student_s_per_token: float


class AnyRow(Protocol):
    """What the rows of any experiment have."""

    @property
    def variant(self) -> str:
        """What it learned from."""
        ...

    @property
    def seed(self) -> int:
        """Its seed."""
        ...

    @property
    def settings(self) -> str:
        """All that must be equal for rows to be compared."""
        ...


R = TypeVar("R", bound=AnyRow)


class Results(Generic[R]):
    """The rows of a file, one JSON object a line. A row is kept when it is added.

    Args:
        path: The file.
        settings: The settings of the rows that will be added.
        kind: The dataclass of a row.

    Raises:
        ConfigurationError: The file has rows of other settings.
    """

    def __init__(self, path: Path, settings: str, kind: type[R]) -> None:
        self._path = path
        self.settings = settings
        self.rows: list[R] = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            self.rows = [kind(**json.loads(line)) for line in lines]
        for row in self.rows:
            if row.settings != settings:
                raise ConfigurationError(
                    f"{path} has results of other settings ({row.settings}) than these "
                    f"({settings}); name another folder with --out"
                )

    def has(self, variant: str, seed: int) -> bool:
        """Whether a row is there."""
        return any((row.variant, row.seed) == (variant, seed) for row in self.rows)

    def add(self, row: R) -> None:
        """Keep a row."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            # Type checkers cannot say that a row is a dataclass.
            file.write(json.dumps(asdict(row)) + "\n")  # type: ignore[call-overload]

    def by_variant(self) -> dict[str, list[R]]:
        """The rows of each variant, in the order in which variants were added first."""
        found: dict[str, list[R]] = {}
        for row in self.rows:
            found.setdefault(row.variant, []).append(row)
        return found


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval (Student's t)."""
    from scipy.stats import t

    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean, float(t.ppf(0.975, len(values) - 1)) * math.sqrt(variance / len(values))


def summary(rows: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, Any]]:
    """Each variant's means and half widths, for `results.json`."""
    found: dict[str, dict[str, Any]] = {}
    for variant, given in rows.items():
        scores = {name: _score(given, name) for name, _, _ in _SCORES}
        costs = ("bytes_per_token", "encoding_s_per_token", "student_s_per_token")
        found[variant] = {
            "seeds": len(given),
            "tokens": given[0].tokens,
            **{name: {"mean": mean, "half": half} for name, (mean, half) in scores.items()},
            **{name: interval([getattr(row, name) for row in given])[0] for name in costs},
        }
    return found


def paired(
    rows: Mapping[str, Sequence[AnyRow]], name: str, score: str, baseline: str = _BASELINE
) -> tuple[float, float] | None:
    """How much more a variant's score is than the baseline's, over the seeds that both have.

    Args:
        rows: The rows of each variant.
        name: The variant.
        score: The score.
        baseline: The variant that it is compared with.

    Returns:
        The mean and half the width of its 95 % interval; None for the baseline and without pairs.
    """
    of_baseline = {row.seed: getattr(row, score) for row in rows.get(baseline, ())}
    found = [
        getattr(row, score) - of_baseline[row.seed] for row in rows[name] if row.seed in of_baseline
    ]
    return interval(found) if found and name != baseline else None


def table(
    rows: Mapping[str, Sequence[Row]],
    names: Iterable[str],
    *,
    baseline: str = _BASELINE,
    compared: str = "kl",
) -> str:
    """Some variants in Markdown, in the given order.

    Args:
        rows: The rows of each variant.
        names: The variants; those without rows are left out.
        baseline: The variant that the others are compared with, in pairs.
        compared: The score in which they are compared.
    """
    headings = [heading for _, heading, _ in _SCORES]
    headings += [
        f"{'KL' if compared == 'kl' else 'cross-entropy'} more than {baseline}, in pairs",
        "seeds",
        "bytes a token",
        "encoding, ms a token",
        "student, ms a token",
    ]
    lines = [f"| learns from | {' | '.join(headings)} |", "| --- |" + " --- |" * len(headings)]
    for name in names:
        if name not in rows:
            continue
        cells = [form.format(*_score(rows[name], score)) for score, _, form in _SCORES]
        first = rows[name][0]
        student = interval([row.student_s_per_token for row in rows[name]])[0]
        more = paired(rows, name, compared, baseline)
        cells += [
            "-" if more is None else "{:+.3f} ± {:.3f}".format(*more),
            str(len(rows[name])),
            f"{first.bytes_per_token:,.0f}" if first.bytes_per_token else "-",
            f"{1000 * first.encoding_s_per_token:.2f}" if first.encoding_s_per_token else "-",
            f"{1000 * student:.2f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(rows: Mapping[str, Sequence[Row]], groups: Sequence[Sequence[str]], path: Path) -> None:
    """Plot the cross-entropies: a dot a seed, means and intervals; one panel a group of variants."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [[name for name in group if name in rows] for group in groups]
    shown = [group for group in shown if group]
    figure, panels = pyplot.subplots(
        len(shown),
        1,
        figsize=(7.5, 1.2 + 0.36 * sum(map(len, shown))),
        height_ratios=[len(group) + 0.6 for group in shown],
        layout="constrained",
        squeeze=False,
    )
    for axes, group in zip(panels[:, 0], shown, strict=True):
        for at, name in enumerate(group):
            values = [row.cross_entropy for row in rows[name]]
            mean, half = interval(values)
            axes.plot(values, [at + 0.18] * len(values), "o", color="#9aa5b1", markersize=3.5)
            axes.errorbar(mean, at - 0.08, xerr=half, fmt="o", color="#1f5fa8", capsize=4)
        axes.set_yticks(range(len(group)), [_label(name, rows[name]) for name in group])
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", alpha=0.25)
    panels[-1, 0].set_xlabel("cross-entropy on text that was held out, nats (less is better)")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _label(name: str, rows: Sequence[Row]) -> str:
    size = rows[0].bytes_per_token
    return f"{name}, {size:,.0f} B" if size else name


def _score(rows: Sequence[Row], name: str) -> tuple[float, float]:
    mean, half = interval([getattr(row, name) for row in rows])
    return (100 * mean, 100 * half) if name in _PERCENT else (mean, half)
