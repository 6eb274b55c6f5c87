"""The metrics of on-policy training for Prometheus, collected when they are scraped.

Call `prometheus_client.REGISTRY.register(OnPolicyMetrics(loop))`, beside `StudentMetrics(student)`.
docs/reference/metrics.md lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tutelage.on_policy.pacing import OnPolicy


class OnPolicyMetrics(Collector):
    """Collects how old the weights are that generate, and how much was generated.

    Args:
        loop: The batches that are trained on; iterated over or not.
    """

    def __init__(self, loop: OnPolicy) -> None:
        self._loop = loop

    def describe(self) -> Iterable[Metric]:
        # As for students and teachers: nothing is collected at registration.
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now."""
        loop = self._loop
        return policy_metrics(loop.policy_lag, loop.step, loop.generated_rows)


def policy_metrics(lag: int, step: int, generated_rows: int) -> Iterator[Metric]:
    """Yield the metrics of on-policy training.

    Args:
        lag: How many updates behind the weights were that generated the last batch.
        step: How many updates the weights have had.
        generated_rows: Rows that were generated here.
    """
    yield GaugeMetricFamily(
        "tutelage_policy_lag",
        "How many updates behind the weights were that generated the last batch.",
        value=lag,
    )
    yield GaugeMetricFamily(
        "tutelage_policy_step", "How many updates the weights have had.", value=step
    )
    yield CounterMetricFamily(
        "tutelage_policy_generated_rows",
        "Rows that this program generated; those that it found in the topic are not counted.",
        value=generated_rows,
    )
