"""The topic that a teacher writes to: created with safe settings, or checked for unsafe ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass

from confluent_kafka import Producer

from tutelage.schemas.arguments import check_options
from tutelage.schemas.codec import Encoded
from tutelage.schemas.errors import AccessDenied, ConfigurationError, RecordTooLarge
from tutelage.transport.connection import MESSAGE_HEADROOM_BYTES
from tutelage.transport.topic_admin import KafkaTopic

log = logging.getLogger(__name__)

DEFAULT_PARTITIONS = 4
_HOUR_MS = 3600 * 1000
TOPIC_SETTINGS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    # The broker unpacks a writer's compressed batches and checks them against max.message.bytes.
    # Readers then fetch as much as they need in memory: 9 KB of zstandard may be 300 MB.
    # Uncompressed batches cost the broker nothing.
    "compression.type": "uncompressed",
    "max.message.bytes": str(16 << 20),
    "retention.ms": str(7 * 24 * _HOUR_MS),
}
_SAFE_REPLICAS = 3
_LOOK_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicSpec:
    """How to create a topic, if `create` allows it. `settings` take precedence over our own."""

    partitions: int | None
    replication: int
    settings: Mapping[str, str]
    create: bool

    @property
    def all_settings(self) -> dict[str, str]:
        """Our settings and the user's."""
        return {**TOPIC_SETTINGS, **self.settings}


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicInfo:
    """A topic that is ready to be written to.

    Attributes:
        partitions: How many partitions it has.
        limit: Its max.message.bytes; None if unknown.
        retention_s: How long it keeps records, in seconds; None if unknown or unlimited.
    """

    partitions: int
    limit: int | None
    retention_s: float | None


def checked_settings(given: Mapping[str, object] | None) -> dict[str, str]:
    """Return a topic's settings with their values as Kafka spells them.

    Raises:
        ConfigurationError: It is not a mapping, a name is not text, or a value is not text, a
            number or a bool.
    """
    found: dict[str, str] = {}
    for name, value in check_options("topic_settings", given).items():
        if not isinstance(value, (str, int, float)):
            raise ConfigurationError(
                f"topic_settings has {name}={value!r}; a setting is a text, a number or a bool"
            )
        found[name] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def stored_as_sent(options: Mapping[str, object]) -> dict[str, str]:
    """Return the topic setting that keeps batches compressed, if the client's options compress."""
    compression = options.get("compression.type", options.get("compression.codec", "none"))
    return {} if compression == "none" else {"compression.type": "producer"}


def too_large(name: str, encoded: Encoded, limit: int) -> RecordTooLarge:
    """Return the error for a record that exceeds its topic's limit, with every remedy."""
    rows = encoded.head.rows
    fit = rows * limit // encoded.nbytes
    ways = [f"rows_per_record={fit} would fit"] if fit else ["a single row does not fit"]
    ways.append("wire of the Teacher sends a key in a narrower dtype")
    needed = encoded.nbytes + MESSAGE_HEADROOM_BYTES
    ways.append(
        f"topic_settings={{'max.message.bytes': {needed}}} of the KafkaSink allows more in a "
        "new topic, and kafka-configs.sh --alter in an existing one"
    )
    return RecordTooLarge(
        f"topic {name}, {encoded.head}: {rows} row{'s have' if rows > 1 else ' has'} "
        f"{encoded.nbytes} bytes, over the {limit} that "
        f"max.message.bytes allows; {'; '.join(ways)}"
    )


def inspect_topic(
    topic: KafkaTopic, name: str, producer: Producer, spec: TopicSpec
) -> TopicInfo | None:
    """Inspect a topic, and log a warning for each unsafe setting.

    Returns:
        The topic; None if it is missing and to be created.

    Raises:
        ConfigurationError: It is missing and not to be created, or it is compacted.
        AccessDenied: This client may not see it.
    """
    partitions = topic.partitions(producer)
    if not partitions:
        topic.check_visible()
        if not spec.create:
            flags = " ".join(f"--config {key}={value}" for key, value in spec.all_settings.items())
            raise ConfigurationError(
                f"topic {name} does not exist, and the teacher is not to create it. Create it "
                "with: kafka-topics.sh "
                f"--bootstrap-server {topic.bootstrap_servers} --create --topic {name} "
                f"--partitions {spec.partitions or DEFAULT_PARTITIONS} {flags}"
            )
        return None
    try:
        found = topic.settings()
    except AccessDenied:
        log.warning(
            "topic %s: its settings cannot be checked without the ACL DescribeConfigs on it", name
        )
        return TopicInfo(partitions=partitions, limit=None, retention_s=None)
    if "compact" in found.get("cleanup.policy", ""):
        raise ConfigurationError(
            f"topic {name} has cleanup.policy={found['cleanup.policy']}: compaction removes "
            "records; set it to delete, or write elsewhere"
        )
    for line in unsafe_settings(found, topic.replication(), topic.brokers()):
        log.warning("topic %s: %s", name, line)
    return _topic_info(partitions, found)


def create_topic(topic: KafkaTopic, spec: TopicSpec) -> TopicInfo:
    """Create a topic."""
    partitions = spec.partitions or DEFAULT_PARTITIONS
    topic.create(partitions, replication=spec.replication, settings=spec.all_settings)
    return _topic_info(partitions, spec.all_settings)


def _topic_info(partitions: int, settings: Mapping[str, str]) -> TopicInfo:
    retention_ms = int(settings.get("retention.ms", -1))
    return TopicInfo(
        partitions=partitions,
        limit=int(settings["max.message.bytes"]),
        retention_s=retention_ms / 1000 if retention_ms >= 0 else None,
    )


def unsafe_settings(
    settings: Mapping[str, str], replication: int | None, brokers: int
) -> list[str]:
    """Return a line for each setting that is slow or that may lose records.

    What a cluster of so few brokers cannot do better is left out.

    Args:
        settings: The topic's settings, including the broker's defaults.
        replication: The smallest number of replicas of a partition; None if unknown.
        brokers: How many brokers the cluster has.
    """
    lines: list[str] = []
    least = int(settings.get("min.insync.replicas", 1))
    if replication is None:
        pass
    elif replication < min(_SAFE_REPLICAS, brokers):
        lines.append(
            f"replication factor {replication} of {brokers} brokers: records are lost with their "
            f"brokers; {_SAFE_REPLICAS} is safe"
        )
    elif replication >= _SAFE_REPLICAS and least < 2:
        lines.append(
            f"min.insync.replicas={least}: a record counts as written when one broker has it; 2 is "
            "safe"
        )
    if replication is not None and least >= replication > 1:
        lines.append(
            f"min.insync.replicas={least} of {replication} replicas: one broker that is away stops "
            "the teacher"
        )
    retention_ms, retention_bytes = (
        int(settings.get("retention.ms", -1)),
        int(settings.get("retention.bytes", -1)),
    )
    if 0 <= retention_ms < 24 * _HOUR_MS:
        lines.append(
            f"retention.ms={retention_ms}, {retention_ms / _HOUR_MS:.3g} hours: a student that "
            "starts later than that, or a pass that takes longer, "
            "loses the beginning"
        )
    if retention_bytes >= 0:
        lines.append(
            f"retention.bytes={retention_bytes}: a run that has more than that in a partition "
            "loses its beginning"
        )
    limit, wanted = (
        int(each.get("max.message.bytes", 1 << 20)) for each in (settings, TOPIC_SETTINGS)
    )
    if limit < wanted:
        lines.append(
            f"max.message.bytes={limit}: records are kept to a quarter of it, and small records "
            f"are slower; {wanted} is better"
        )
    if settings.get("unclean.leader.election.enable") == "true":
        lines.append(
            "unclean.leader.election.enable=true: a broker that missed records may become leader, "
            "and they are lost"
        )
    compression = settings.get("compression.type", "producer")
    if compression not in ("producer", "uncompressed"):
        lines.append(
            f"compression.type={compression}: the broker compresses every record again; producer "
            "keeps them as sent"
        )
    return lines


class Retention:
    """Warns, once, when a run is older than half of its topic's retention."""

    def __init__(self, name: str, retention_s: float | None, created: float) -> None:
        self._name = name
        self._retention_s = retention_s
        self._created = created
        self._look_at = 0.0

    def look(self) -> None:
        """Check the run's age, at most once a minute."""
        if self._retention_s is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_EVERY_S
        age_s = time.time() - self._created
        if age_s > self._retention_s / 2:
            log.warning(
                "topic %s: the run is %.3g hours old and its records are kept for %.3g: a student "
                "loses what it has not read by then; "
                "raise retention.ms",
                self._name, age_s / 3600, self._retention_s / 3600,
            )  # fmt: skip
            self._retention_s = None
