"""The metrics ports of students -> shares, counts and rates of the last seconds.

Several students are added up, as if they were one. Knows no Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.schemas.errors import TutelageError
from tutelage.tools.rate_window import RateWindow
from tutelage.tools.scraping import Samples, combine_samples, parse_metrics_address, scrape
from tutelage.tools.watch_view import StudentView

_PREFIX = "tutelage_consumer_"


class StudentMetrics:
    """Scrapes metrics ports again and again.

    Args:
        addresses: The ports, as HOST:PORT or URLs.

    Raises:
        ConfigurationError: An address cannot be parsed.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [parse_metrics_address(address) for address in addresses]
        self._window: RateWindow[Samples] = RateWindow()

    def look(self, trouble: list[str]) -> StudentView | None:
        """Scrape all ports once.

        Args:
            trouble: Gets a sentence for each port that could not be read.

        Returns:
            What the metrics say; None if there are no ports, if none could be read, or if none
            belongs to a student.
        """
        if not self._addresses:
            return None
        found = []
        for address in self._addresses:
            try:
                found.append(scrape(address))
            except TutelageError as error:
                trouble.append(str(error))
        samples = combine_samples(found)
        self._window.add(samples)
        if not found:
            return None
        if (f"{_PREFIX}delivered_rows_total", "") not in samples:
            places = ", ".join(map(str, self._addresses))
            trouble.append(
                f"{places}: no metrics of a student; is it a teacher's port? (learn --metrics-port)"
            )
            return None
        return self._view(samples)

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
