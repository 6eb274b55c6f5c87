"""Metrics ports -> what `watch` shows of the student and of the replicas behind them. Knows no Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.schemas.errors import TutelageError
from tutelage.tools.rate_window import RateWindow
from tutelage.tools.replica_view import ReplicaMetricsView
from tutelage.tools.scraping import MetricsAddress, Samples, parse_metrics_address, scrape
from tutelage.tools.student_metrics import StudentMetrics, is_student
from tutelage.tools.watch_view import StudentView

_REPLICA = "tutelage_replica_"


class MetricsPorts:
    """Scrapes metrics ports again and again.

    Args:
        addresses: The ports, as HOST:PORT or URLs.

    Raises:
        ConfigurationError: An address cannot be parsed.
    """

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = [parse_metrics_address(address) for address in addresses]
        self._student = StudentMetrics()
        self._windows: dict[MetricsAddress, RateWindow[Samples]] = {}

    def look(self, trouble: list[str]) -> tuple[StudentView | None, list[ReplicaMetricsView]]:
        """Scrape all ports once.

        Args:
            trouble: Gets a sentence for each port that could not be read, or is of neither.

        Returns:
            What students say, None without one; and what each replica says.
        """
        students, replicas = [], []
        for address in self._addresses:
            try:
                samples = scrape(address)
            except TutelageError as error:
                trouble.append(str(error))
                continue
            is_replica = any(name.startswith(_REPLICA) for name, _ in samples)
            if is_student(samples):
                students.append(samples)
            if is_replica:
                replicas.append(self._replica(address, samples))
            elif not is_student(samples):
                trouble.append(
                    f"{address}: no metrics of a student or of a replica that answers; is it the "
                    "port of a teacher that answers no queries, or has found none yet? "
                    "(learn --metrics-port, teach --queries --metrics-port)"
                )
        return self._student.look(students), replicas

    def _replica(self, address: MetricsAddress, samples: Samples) -> ReplicaMetricsView:
        window = self._windows.setdefault(address, RateWindow())
        window.add(samples)
        elapsed_s = window.elapsed_s

        def rate(name: str) -> float | None:
            grown = _total(samples, name) - _total(window.oldest, name)
            return max(0.0, grown / elapsed_s) if elapsed_s > 0 else None

        return ReplicaMetricsView(
            address=str(address),
            queries_rate=rate("queries_total"),
            rows_rate=rate("rows_total"),
            tokens_rate=rate("tokens_total"),
            partitions=int(_total(samples, "partitions")),
            rebalances=int(_total(samples, "rebalances_total")),
            discarded=int(_total(samples, "discarded_total")),
        )


def _total(samples: Samples, name: str) -> float:
    """A metric of a replica, over all teachers of its process."""
    return sum(value for (found, _), value in samples.items() if found == _REPLICA + name)
