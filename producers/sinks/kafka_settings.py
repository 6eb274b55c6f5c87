"""The arguments of a `KafkaSink`, checked and grouped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tutelage.schemas.arguments import check_flag, check_seconds, check_text, check_whole_number
from tutelage.schemas.errors import ConfigurationError
from tutelage.transport.topic_setup import TopicSpec, checked_settings, stored_as_sent


@dataclass(frozen=True, kw_only=True, slots=True)
class BackpressureSettings:
    """How many records a teacher may be ahead of what a student's consumer group has committed."""

    max_ahead: int
    group: str
    timeout_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSinkSettings:
    """How a `KafkaSink` creates its topic and writes to it; see its arguments."""

    topic: TopicSpec
    delivery_timeout_s: float
    backpressure: BackpressureSettings | None
    transactional: bool


def check_settings(
    *,
    partitions: int | None,
    replication: int,
    create: bool,
    topic_settings: Mapping[str, str | int | float] | None,
    options: Mapping[str, object] | None,
    delivery_timeout_s: float,
    max_ahead: int | None,
    student_group: str | None,
    student_timeout_s: float,
    transactional: bool,
) -> KafkaSinkSettings:
    """Check the arguments of a `KafkaSink` and return them as settings.

    `options` must be checked already.

    Raises:
        ConfigurationError: An argument has the wrong type or value, or excludes another one.
    """
    if (max_ahead is None) != (student_group is None):
        raise ConfigurationError(
            "max_ahead is a number of records, at least 1, and goes with the student's group, "
            "student_group"
        )
    if check_flag("transactional", transactional) and max_ahead is not None:
        raise ConfigurationError(
            "max_ahead counts records, and transactions add some of their own: use one or the other"
        )
    topic = TopicSpec(
        partitions=check_whole_number("partitions", partitions) if partitions is not None else None,
        replication=check_whole_number("replication", replication) if replication != -1 else -1,
        create=check_flag("create", create),
        settings={**stored_as_sent(options or {}), **checked_settings(topic_settings)},
    )
    delivery_timeout_s = check_seconds("delivery_timeout_s", delivery_timeout_s)
    max_ahead = check_whole_number("max_ahead", max_ahead) if max_ahead is not None else None
    group = check_text("student_group", student_group) if student_group is not None else None
    student_timeout_s = check_seconds("student_timeout_s", student_timeout_s)
    backpressure = None
    if max_ahead is not None and group is not None:
        backpressure = BackpressureSettings(
            max_ahead=max_ahead, group=group, timeout_s=student_timeout_s
        )
    return KafkaSinkSettings(
        topic=topic,
        delivery_timeout_s=delivery_timeout_s,
        backpressure=backpressure,
        transactional=transactional,
    )
