"""A student's metrics for Prometheus, collected when somebody looks: counting costs the student nothing.

`prometheus_client.REGISTRY.register(StudentMetrics(student))` and `start_http_server(port, addr="127.0.0.1")` in a program of your own;
`tutelage learn --metrics-port` does it with health checks. Names and units are Prometheus' base units (docs/reference/metrics.md).
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
    """Collects what a student and its teachers' streams came to, and how far behind it is.

    Args:
        student: The student; started or not.
    """

    def __init__(self, student: Student) -> None:
        self._student = student

    def describe(self) -> Iterable[Metric]:
        # Told without looking: what there is to collect depends on teachers that may not be there yet.
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; none where DataLoader workers read, which alone know them."""
        try:
            _ = self._student.stats
        except ConfigurationError:
            return
        yield from self._of_student()
        stream_statuses = self._student.stream_statuses()
        yield from _of_teachers(stream_statuses)
        yield from _of_partitions(stream_statuses)

    def _of_student(self) -> Iterator[Metric]:
        student, stats = self._student, self._student.stats
        for name, help_text, value in (
            ("delivered_batches", "Batches given to the training loop.", stats.batches),
            ("delivered_rows", "Rows given to the training loop.", stats.rows),
            ("starved_seconds", "Time the training loop waited for batches.", stats.starved_s),
            ("training_seconds", "Time the training loop took between batches.", stats.training_s),
            ("merge_seconds", "Time aligning and merging took.", stats.merge_s),
        ):
            yield CounterMetricFamily(f"tutelage_consumer_{name}", help_text, value=value)
        activity = student.activity
        for name, help_text, gauge in (
            ("queue_batches", "Merged batches that are ready to be taken.", student.queue_size),
            ("pass", "The pass that is read, from 0.", student.pass_index),
            ("longest_wait_seconds", "The longest that a batch was waited for.", stats.longest_wait_s),
            ("waiting_seconds", "How long the wait for a teacher that is under way has lasted.", _waiting(activity.seconds, activity.waiting)),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"tutelage_consumer_{name}", help_text, value=gauge)
        age = GaugeMetricFamily(
            "tutelage_checkpoint_age_seconds", "Time since the last checkpoint was written."
        )
        if stats.saved is not None:
            age.add_metric((), time.time() - stats.saved)
        yield age


def _waiting(seconds: float, waiting: bool) -> float:
    return seconds if waiting else 0.0


def _of_teachers(stream_statuses: list[StreamStatus]) -> Iterator[Metric]:
    wait = CounterMetricFamily(
        "tutelage_consumer_wait_seconds", "Time merging waited for this teacher.", labels=_TEACHER
    )
    decode = CounterMetricFamily(
        "tutelage_consumer_decode_seconds",
        "Time checking, decoding and copying took.",
        labels=_TEACHER,
    )
    duplicates = CounterMetricFamily(
        "tutelage_consumer_duplicates", "Records dropped, written twice.", labels=_TEACHER
    )
    zombies = CounterMetricFamily(
        "tutelage_consumer_zombie_records",
        "Records of a writer that was thought dead.",
        labels=_TEACHER,
    )
    queue = GaugeMetricFamily(
        "tutelage_consumer_queue_bytes", "Bytes of this teacher read ahead.", labels=_TEACHER
    )
    for status in stream_statuses:
        labels, stats = (status.teacher, status.label), status.stats
        wait.add_metric(labels, stats.wait_s)
        decode.add_metric(labels, stats.decode_s + stats.load_s)
        duplicates.add_metric(labels, stats.duplicates)
        zombies.add_metric(labels, stats.zombies)
        queue.add_metric(labels, status.queued_bytes)
    yield from (wait, decode, duplicates, zombies, queue)


def _of_partitions(stream_statuses: list[StreamStatus]) -> Iterator[Metric]:
    records = CounterMetricFamily(
        "tutelage_consumer_records", "Records read, ends not counted.", labels=_PARTITION
    )
    rows = CounterMetricFamily("tutelage_consumer_rows", "Rows read.", labels=_PARTITION)
    nbytes = CounterMetricFamily(
        "tutelage_consumer_bytes", "Bytes of Avro read.", labels=_PARTITION
    )
    offset = GaugeMetricFamily(
        "tutelage_consumer_offset",
        "Where reading would go on behind what was given.",
        labels=_PARTITION,
    )
    lag = GaugeMetricFamily(
        "tutelage_consumer_lag_records",
        "Records between there and the partition's end.",
        labels=_PARTITION,
    )
    headroom = GaugeMetricFamily(
        "tutelage_consumer_retention_headroom_records",
        "Records between there and the first that the broker still has: at 0 the next deletion loses some.",
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
                labels = (status.teacher, status.label, str(partition))
                at = low if at == BEGINNING else at
                offset.add_metric(labels, at)
                lag.add_metric(labels, max(0, end - at))
                headroom.add_metric(labels, at - low)
    yield from (records, rows, nbytes, offset, lag, headroom)
