"""The lag of a group as KEDA's kafka trigger computes it (kafka_scaler.go of 2.21: getLagForPartition, getTotalLag)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

_INVALID = -1001


def lags(
    servers: str, topic: str, group: str, settings: Mapping[str, Any] | None = None
) -> list[int]:
    """The lag of each partition.

    Args:
        servers: The brokers.
        topic: The topic.
        group: The group.
        settings: The trigger's metadata.
    """
    admin = AdminClient({"bootstrap.servers": servers})
    given = dict(settings or {"offsetResetPolicy": "earliest"})
    invalid_is_none = given.get("scaleToZeroOnInvalidOffset", "false") == "true"
    parts = [
        TopicPartition(topic, number)
        for number in admin.list_topics(timeout=20).topics[topic].partitions
    ]
    # Not by the admin client: librdkafka 2.16 crashes if a group's coordinator is not there yet.
    asking = Consumer({"bootstrap.servers": servers, "group.id": group})
    try:
        found = _committed(asking, parts)
    finally:
        asking.close()
    ends = _offsets(admin, parts, OffsetSpec.latest())
    firsts = _offsets(admin, parts, OffsetSpec.earliest())
    lags = []
    for part in sorted(found, key=lambda each: each.partition):
        number = part.partition
        if part.offset not in (_INVALID, -1):
            lags.append(ends[number] - part.offset)
        elif invalid_is_none:
            lags.append(0)
        elif given.get("offsetResetPolicy", "latest") == "latest":
            lags.append(1)
        else:
            lags.append(max(0, ends[number] - firsts[number]))
    return lags


def wanted_replicas(lags: list[int], settings: Mapping[str, Any], most: int) -> int:
    """How many replicas KEDA and the autoscaler that it makes ask for."""
    threshold = int(settings["lagThreshold"])
    total = sum(lags)
    if total <= int(settings["activationLagThreshold"]):
        return 0
    bound = (
        sum(lag > 0 for lag in lags)
        if settings.get("limitToPartitionsWithLag") == "true"
        else len(lags)
    )
    if total // threshold > bound:
        total = bound * threshold
    return max(1, min(most, -(-total // threshold)))


def _committed(asking: Consumer, parts: list[TopicPartition]) -> list[TopicPartition]:
    deadline = time.monotonic() + 60
    while True:
        try:
            return asking.committed(parts, timeout=30)
        except KafkaException as error:
            # The first group of a cluster: its coordinator is being made.
            if not error.args[0].retriable() and error.args[0].code() != KafkaError.NOT_COORDINATOR:
                raise
            assert time.monotonic() < deadline, error
            time.sleep(0.2)


def _offsets(admin: AdminClient, parts: list[TopicPartition], spec: OffsetSpec) -> dict[int, int]:
    futures = admin.list_offsets(dict.fromkeys(parts, spec), request_timeout=20)
    return {part.partition: future.result(20).offset for part, future in futures.items()}
