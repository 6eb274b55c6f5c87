"""The samples of students -> shares, counts and rates of the last seconds.

Several students are added up, as if they were one. Knows neither Kafka nor metrics ports.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.tools.rate_window import RateWindow
from tutelage.tools.scraping import Samples, combine_samples
from tutelage.tools.watch_view import StudentView

_PREFIX = "tutelage_consumer_"


def is_student(samples: Samples) -> bool:
    """Whether a metrics port is a student's."""
    return (f"{_PREFIX}delivered_rows_total", "") in samples


class StudentMetrics:
    """What students' metrics say, by what was seen of them before."""

    def __init__(self) -> None:
        self._window: RateWindow[Samples] = RateWindow()

    def look(self, students: Sequence[Samples]) -> StudentView | None:
        """Take what was just seen.

        Args:
            students: The samples of each student.

        Returns:
            What they say; None without a student.
        """
        samples = combine_samples(students)
        self._window.add(samples)
        return self._view(samples) if students else None

    def _view(self, samples: Samples) -> StudentView:
        starved_s = self._growth(samples, "starved_seconds_total")
        spent_s = starved_s + self._growth(samples, "training_seconds_total")
        waiting_s = samples.get((f"{_PREFIX}waiting_seconds", ""), 0.0)
        starved = starved_s / spent_s if spent_s > 0 else (1.0 if waiting_s else None)
        teachers = [teacher for name, teacher in samples if name == f"{_PREFIX}wait_seconds_total"]
        elapsed_s = self._window.elapsed_s
        divisor_s = max(1e-9, elapsed_s)
        return StudentView(
            starved=starved,
            waits={
                teacher: min(1.0, self._growth(samples, "wait_seconds_total", teacher) / divisor_s)
                for teacher in teachers
            },
            duplicates=_total(samples, "duplicates_total", teachers),
            zombies=_total(samples, "zombie_records_total", teachers),
            checkpoint_s=samples.get(("tutelage_checkpoint_age_seconds", "")),
            policy_lag=samples.get(("tutelage_policy_lag", "")),
            rows_rate=(
                self._growth(samples, "delivered_rows_total") / divisor_s if elapsed_s > 0 else None
            ),
        )

    def _growth(self, samples: Samples, name: str, teacher: str = "") -> float:
        """How much a counter grew within the window; 0 if its student was restarted."""
        key = (_PREFIX + name, teacher)
        return max(0.0, samples.get(key, 0.0) - self._window.oldest.get(key, 0.0))


def _total(samples: Samples, name: str, teachers: Sequence[str]) -> int:
    return int(sum(samples.get((_PREFIX + name, teacher), 0.0) for teacher in teachers))
