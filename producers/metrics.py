"""A teacher's metrics for Prometheus.

They are collected on request; only deliveries are observed as they happen.

In a program of your own, call `prometheus_client.REGISTRY.register(TeacherMetrics(teacher))` and
`start_http_server(port, addr="127.0.0.1")`. `tutelage teach --metrics-port` does the same and adds
health checks. Units are Prometheus' base units; docs/reference/metrics.md lists the metrics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tutelage.producers.answers.metrics import replica_metrics
from tutelage.producers.run import Run
from tutelage.producers.teacher import Teacher

_LABELS = ("teacher", "topic")
# A broker on the same network acknowledges within milliseconds; one that is being replaced takes
# seconds.
_DELIVERY_BUCKETS = (
    0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0
)  # fmt: skip


class TeacherMetrics(Collector):
    """Collects what a teacher wrote, where its time went and what is in flight.

    Args:
        teacher: The teacher; it need not be started.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._labels = (teacher.name, teacher.sink.label)
        self._delivery = Histogram(
            "tutelage_producer_delivery_seconds",
            "Time from handing a record to the client to its acknowledgement.",
            _LABELS,
            buckets=_DELIVERY_BUCKETS,
            registry=None,
        )
        teacher.sink.watch_deliveries(self._delivery.labels(*self._labels).observe)

    def describe(self) -> Iterable[Metric]:
        # Without this method the registry would call `collect`, which finds nothing before the
        # start.
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics; none before the teacher has started, or found queries."""
        run, replica = self._teacher.running, self._teacher.replica
        if replica is not None:
            yield from replica_metrics(
                replica.stats,
                _LABELS,
                self._labels,
                waiting=replica.waiting,
                partitions=len(replica.owned),
                rebalances=replica.rebalances,
            )
        if run is None:
            return
        yield from self._counters(run)
        yield from self._gauges(run)
        yield self._partition_records()
        yield from self._delivery.collect()

    def _counters(self, run: Run) -> Iterator[Metric]:
        stats = run.stats
        for name, help_text, value in (
            ("records", "Records written, end records not included.", run.records_written),
            ("rows", "Rows written.", run.rows_written),
            ("bytes", "Bytes of Avro written.", run.bytes_written),
            (
                "input_wait_seconds",
                "Time in which no stage had work because the inputs gave no batch.",
                stats.input_wait_s,
            ),
            ("forward_seconds", "Time in the model, summed over all devices.", stats.forward_s),
            (
                "encode_seconds",
                "Time to encode and pack records, summed over all threads.",
                stats.encode_s,
            ),
            (
                "write_seconds",
                "Time in the sink, including waits for room in its queue or for a student.",
                stats.write_s,
            ),
        ):
            counter = CounterMetricFamily(f"tutelage_producer_{name}", help_text, labels=_LABELS)
            counter.add_metric(self._labels, value)
            yield counter

    def _gauges(self, run: Run) -> Iterator[Metric]:
        queued_records, queued_bytes = self._teacher.sink.queued
        activity = self._teacher.activity
        waiting_s = activity.seconds if activity.waiting else 0.0
        for name, help_text, value in (
            ("queue_records", "Records that are not acknowledged yet.", queued_records),
            ("queue_bytes", "Bytes that are not acknowledged yet.", queued_bytes),
            ("pass", "The pass that is being written, from 0.", run.pass_index),
            ("generation", "How often this run was continued.", run.generation),
            ("waiting_seconds", "How long the current wait has lasted.", waiting_s),
        ):
            gauge = GaugeMetricFamily(f"tutelage_producer_{name}", help_text, labels=_LABELS)
            gauge.add_metric(self._labels, value)
            yield gauge

    def _partition_records(self) -> Metric:
        records = CounterMetricFamily(
            "tutelage_producer_partition_records",
            "Records written to a partition, end records included.",
            labels=(*_LABELS, "partition"),
        )
        for partition, count in sorted(self._teacher.sink.records_by_partition.items()):
            records.add_metric((*self._labels, str(partition)), count)
        return records
