"""A replica's metrics for Prometheus. They are collected on request; docs/reference/metrics.md lists them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from tutelage.producers.answers.progress import ReplicaStats


def replica_metrics(
    stats: ReplicaStats,
    labels: Sequence[str],
    values: Sequence[str],
    *,
    waiting: tuple[int, float] = (0, 0.0),
    partitions: int = 0,
    rebalances: int = 0,
) -> Iterator[Metric]:
    """Yield what a replica has done and what waits for it.

    Args:
        stats: What it has done.
        labels: The names of the labels.
        values: Their values.
        waiting: Queries that wait, and how long the oldest has, in seconds.
        partitions: Partitions that it owns.
        rebalances: How often partitions came or went.
    """
    for name, help_text, value in (
        ("queries", "Query records that were answered.", float(stats.queries)),
        ("rows", "Rows of queries that were answered.", stats.rows),
        ("bytes", "Bytes of Avro of answers.", stats.nbytes),
        (
            "dropped",
            "Query records that had an answer already, or were written twice.",
            stats.dropped,
        ),
        (
            "discarded",
            "Answers that were not written, because another replica had their partition by then.",
            stats.discarded,
        ),
        (
            "given_up",
            "Query records that were given up, because they had ended too many replicas.",
            stats.given_up,
        ),
        ("calls", "Calls of the model.", stats.calls),
        (
            "tokens",
            "Elements of the longest ragged key that the model was given, without padding.",
            stats.tokens,
        ),
        ("forward_seconds", "Time in the model, summed over all devices.", stats.forward_s),
        ("rebalances", "How often the group gave or took partitions.", rebalances),
    ):
        counter = CounterMetricFamily(f"tutelage_replica_{name}", help_text, labels=labels)
        counter.add_metric(values, value)
        yield counter
    count, oldest_s = waiting
    for name, help_text, value in (
        ("waiting_queries", "Query records that wait for the model.", float(count)),
        ("oldest_waiting_seconds", "How long the oldest of them has waited.", oldest_s),
        ("partitions", "Partitions that the group has given.", partitions),
    ):
        gauge = GaugeMetricFamily(f"tutelage_replica_{name}", help_text, labels=labels)
        gauge.add_metric(values, value)
        yield gauge
