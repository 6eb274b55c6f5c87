"""A student's metrics for Prometheus, collected when they are scraped, at no cost to the student.

In a program of your own, call `prometheus_client.REGISTRY.register(StudentMetrics(student))` and
`start_http_server(port, addr="127.0.0.1")`. `tutelage learn --metrics-port` serves them with health
checks. Names and units follow Prometheus (docs/reference/metrics.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tutelage.consumers.stats import StreamStatus
from tutelage.consumers.student import Student
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.topic import BEGINNING

_TEACHER = ("teacher", "topic")
_PARTITION = (*_TEACHER, "partition")


class StudentMetrics(Collector):
    """Collects the counts, times and lag of a student and its teachers' streams.

    Args:
        student: The student; started or not.
    """

    def __init__(self, student: Student) -> None:
        self._student = student

    def describe(self) -> Iterable[Metric]:
        # Empty, because the metrics depend on teachers that may not be there yet.
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as they are now; none if DataLoader workers read the student."""
        try:
            _ = self._student.stats
        except ConfigurationError:
            return
        yield from self._student_metrics()
        stream_statuses = self._student.stream_statuses()
        yield from _teacher_metrics(stream_statuses)
        yield from _partition_metrics(stream_statuses)

    def _student_metrics(self) -> Iterator[Metric]:
        student, stats = self._student, self._student.stats
        for name, help_text, value in (
            ("delivered_batches", "Batches given to the training loop.", stats.batches),
            (
                "delivered_rows",
                "Rows of the batches given to the training loop, on all ranks together.",
                stats.rows,
            ),
            ("starved_seconds", "Time the training loop waited for batches.", stats.starved_s),
            ("training_seconds", "Time the training loop spent between batches.", stats.training_s),
            ("merge_seconds", "Time spent merging.", stats.merge_s),
        ):
            yield CounterMetricFamily(f"tutelage_consumer_{name}", help_text, value=value)
        activity = student.activity
        waiting_s = activity.seconds if activity.waiting else 0.0
        for name, help_text, gauge in (
            ("queue_batches", "Batches that can be taken without waiting.", student.queue_size),
            ("pass", "The number of the pass that is being read, from 0.", student.pass_index),
            ("longest_wait_seconds", "The longest wait for a batch.", stats.longest_wait_s),
            ("waiting_seconds", "How long the current wait for a teacher has lasted; 0 if there is none.", waiting_s),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"tutelage_consumer_{name}", help_text, value=gauge)
        age = GaugeMetricFamily(
            "tutelage_checkpoint_age_seconds", "Time since the last checkpoint was written."
        )
        if stats.saved is not None:
            age.add_metric((), time.time() - stats.saved)
        yield age


def _teacher_metrics(stream_statuses: list[StreamStatus]) -> Iterator[Metric]:
    wait = CounterMetricFamily(
        "tutelage_consumer_wait_seconds", "Time merging waited for this teacher.", labels=_TEACHER
    )
    decode = CounterMetricFamily(
        "tutelage_consumer_decode_seconds",
        "Time spent checking, decoding and copying records.",
        labels=_TEACHER,
    )
    duplicates = CounterMetricFamily(
        "tutelage_consumer_duplicates",
        "Records dropped because they were written twice.",
        labels=_TEACHER,
    )
    zombies = CounterMetricFamily(
        "tutelage_consumer_zombie_records",
        "Records of a writer that was thought dead.",
        labels=_TEACHER,
    )
    queue = GaugeMetricFamily(
        "tutelage_consumer_queue_bytes",
        "Bytes of this teacher's rows that were read ahead.",
        labels=_TEACHER,
    )
    amplification = GaugeMetricFamily(
        "tutelage_consumer_read_amplification",
        "How many times its share of this teacher's stream this rank reads.",
        labels=_TEACHER,
    )
    for status in stream_statuses:
        labels, stats = (status.teacher, status.label), status.stats
        amplification.add_metric(labels, stats.read_amplification)
        wait.add_metric(labels, stats.wait_s)
        decode.add_metric(labels, stats.decode_s + stats.load_s)
        duplicates.add_metric(labels, stats.duplicates)
        zombies.add_metric(labels, stats.zombies)
        queue.add_metric(labels, status.queued_bytes)
    yield from (wait, decode, duplicates, zombies, queue, amplification)


def _partition_metrics(stream_statuses: list[StreamStatus]) -> Iterator[Metric]:
    records = CounterMetricFamily(
        "tutelage_consumer_records", "Records read; end records are not counted.", labels=_PARTITION
    )
    rows = CounterMetricFamily("tutelage_consumer_rows", "Rows read.", labels=_PARTITION)
    nbytes = CounterMetricFamily(
        "tutelage_consumer_bytes", "Bytes of Avro read.", labels=_PARTITION
    )
    offset = GaugeMetricFamily(
        "tutelage_consumer_offset",
        "The offset from which reading would continue behind the batches that were given.",
        labels=_PARTITION,
    )
    lag = GaugeMetricFamily(
        "tutelage_consumer_lag_records",
        "Records from that offset to the end of the partition.",
        labels=_PARTITION,
    )
    headroom = GaugeMetricFamily(
        "tutelage_consumer_retention_headroom_records",
        "Records from the first that the broker still has to that offset. At 0 the next deletion "
        "loses records.",
        labels=_PARTITION,
    )
    for status in stream_statuses:
        stats = status.stats
        for family, counts in (
            (records, stats.records),
            (rows, stats.rows),
            (nbytes, stats.nbytes),
        ):
            for partition, count in sorted(counts.items()):
                family.add_metric((status.teacher, status.label, str(partition)), count)
        if status.ends:
            offsets = status.offsets or [BEGINNING] * len(status.ends)
            for partition, (at, (low, end)) in enumerate(zip(offsets, status.ends, strict=True)):
                if stats.needed is not None and partition not in stats.needed:
                    continue
                labels = (status.teacher, status.label, str(partition))
                at = low if at == BEGINNING else at
                offset.add_metric(labels, at)
                lag.add_metric(labels, max(0, end - at))
                headroom.add_metric(labels, at - low)
    yield from (records, rows, nbytes, offset, lag, headroom)
