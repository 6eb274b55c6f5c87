"""A student's metrics for Prometheus, collected when somebody looks: counting costs the student nothing.

`prometheus_client.REGISTRY.register(StudentMetrics(student))` and `start_http_server(port, addr="127.0.0.1")` in a program of your own;
`tutelage learn --metrics-port` does it with health checks. Names and units are Prometheus' base units (docs/reference/metrics.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tutelage.consumers.student import Student
from tutelage.consumers.tally import Standing
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
            _ = self._student.tally
        except ConfigurationError:
            return
        yield from self._of_student()
        standings = self._student.standings()
        yield from _of_teachers(standings)
        yield from _of_partitions(standings)

    def _of_student(self) -> Iterator[Metric]:
        student, tally = self._student, self._student.tally
        for name, help_text, value in (
            ("delivered_batches", "Batches given to the training loop.", tally.batches),
            ("delivered_rows", "Rows given to the training loop.", tally.rows),
            ("starved_seconds", "Time the training loop waited for batches.", tally.starved_s),
            ("training_seconds", "Time the training loop took between batches.", tally.training_s),
            ("merge_seconds", "Time aligning and merging took.", tally.merge_s),
        ):
            yield CounterMetricFamily(f"tutelage_consumer_{name}", help_text, value=value)
        activity = student.activity
        for name, help_text, gauge in (
            ("queue_batches", "Merged batches that are ready to be taken.", student.queue_size),
            ("pass", "The pass that is read, from 0.", student.pass_index),
            ("longest_wait_seconds", "The longest that a batch was waited for.", tally.longest_wait_s),
            ("waiting_seconds", "How long the wait for a teacher that is under way has lasted.", _waiting(activity.seconds, activity.waiting)),
        ):  # fmt: skip
            yield GaugeMetricFamily(f"tutelage_consumer_{name}", help_text, value=gauge)
        age = GaugeMetricFamily(
            "tutelage_checkpoint_age_seconds", "Time since the last checkpoint was written."
        )
        if tally.saved is not None:
            age.add_metric((), time.time() - tally.saved)
        yield age


def _waiting(seconds: float, waiting: bool) -> float:
    return seconds if waiting else 0.0


def _of_teachers(standings: list[Standing]) -> Iterator[Metric]:
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
    for standing in standings:
        labels, tally = (standing.teacher, standing.label), standing.tally
        wait.add_metric(labels, tally.wait_s)
        decode.add_metric(labels, tally.decode_s + tally.load_s)
        duplicates.add_metric(labels, tally.duplicates)
        zombies.add_metric(labels, tally.zombies)
        queue.add_metric(labels, standing.queued_bytes)
    yield from (wait, decode, duplicates, zombies, queue)


def _of_partitions(standings: list[Standing]) -> Iterator[Metric]:
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
    for standing in standings:
        tally = standing.tally
        for family, counts in (
            (records, tally.records),
            (rows, tally.rows),
            (nbytes, tally.nbytes),
        ):
            for partition, count in sorted(counts.items()):
                family.add_metric((standing.teacher, standing.label, str(partition)), count)
        if standing.ends:
            offsets = standing.offsets or [BEGINNING] * len(standing.ends)
            for partition, (at, (low, end)) in enumerate(zip(offsets, standing.ends, strict=True)):
                labels = (standing.teacher, standing.label, str(partition))
                at = low if at == BEGINNING else at
                offset.add_metric(labels, at)
                lag.add_metric(labels, max(0, end - at))
                headroom.add_metric(labels, at - low)
    yield from (records, rows, nbytes, offset, lag, headroom)
