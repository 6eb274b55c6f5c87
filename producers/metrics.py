"""A teacher's metrics for Prometheus, collected when somebody looks; only deliveries are counted as they happen.

`prometheus_client.REGISTRY.register(TeacherMetrics(teacher))` and `start_http_server(port, addr="127.0.0.1")` in a program of your own;
`tutelage teach --metrics-port` does it with health checks. Names and units are Prometheus' base units (docs/reference/metrics.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tutelage.producers.run import Run
from tutelage.producers.teacher import Teacher

_TEACHER = ("teacher", "topic")
# A broker beside us acknowledges in milliseconds, one that is being replaced in seconds.
_DELIVERY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class TeacherMetrics(Collector):
    """Collects what a teacher wrote, where its time went and what is on its way.

    Args:
        teacher: The teacher; started or not.
    """

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher
        self._labels = (teacher.name, teacher.sink.label)
        self._delivery = Histogram(
            "tutelage_producer_delivery_seconds",
            "From a record's hand-over to the client to its acknowledgement.",
            _TEACHER,
            buckets=_DELIVERY_BUCKETS,
            registry=None,
        )
        teacher.sink.watch_deliveries(self._delivery.labels(*self._labels).observe)

    def describe(self) -> Iterable[Metric]:
        # Told without looking: before the teacher is started there is nothing to collect.
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; none before the teacher has started."""
        run = self._teacher.running
        if run is None:
            return
        yield from self._of_run(run)
        records = CounterMetricFamily(
            "tutelage_producer_partition_records", "Records written to a partition, ends included.", labels=(*_TEACHER, "partition")
        )  # fmt: skip
        for partition, count in sorted(self._teacher.sink.records_by_partition.items()):
            records.add_metric((*self._labels, str(partition)), count)
        yield records
        yield from self._delivery.collect()

    def _of_run(self, run: Run) -> Iterator[Metric]:
        stats = run.stats
        for name, help_text, value in (
            ("records", "Records written, ends not counted.", run.records_written),
            ("rows", "Rows written.", run.rows_written),
            ("bytes", "Bytes of Avro written.", run.bytes_written),
            (
                "input_wait_seconds",
                "Time in which there was nothing to do but wait for inputs.",
                stats.input_wait_s,
            ),
            ("forward_seconds", "Time in the model, of all devices.", stats.forward_s),
            ("encode_seconds", "Time encoding and packing took, of all threads.", stats.encode_s),
            (
                "write_seconds",
                "Time in the sink: waiting for room in its queue, or for a student.",
                stats.write_s,
            ),
        ):
            counter = CounterMetricFamily(f"tutelage_producer_{name}", help_text, labels=_TEACHER)
            counter.add_metric(self._labels, value)
            yield counter
        queued_records, queued_bytes = self._teacher.sink.queued
        activity = self._teacher.activity
        for name, help_text, gauge_value in (
            ("queue_records", "Records that are not acknowledged yet.", queued_records),
            ("queue_bytes", "Bytes that are not acknowledged yet.", queued_bytes),
            ("pass", "The pass that is written, from 0.", run.pass_index),
            ("generation", "How often this run was continued.", run.generation),
            ("waiting_seconds", "How long the wait that is under way has lasted.", activity.seconds if activity.waiting else 0.0),
        ):  # fmt: skip
            gauge = GaugeMetricFamily(f"tutelage_producer_{name}", help_text, labels=_TEACHER)
            gauge.add_metric(self._labels, gauge_value)
            yield gauge
