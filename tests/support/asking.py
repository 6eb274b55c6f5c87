"""Queries of numbers, a student that reads their answers, and replicas in threads."""

from __future__ import annotations

import threading
from typing import Any

import torch
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from support.answering_lesson import model

from tutelage import KafkaSink, KafkaSource, QueryWriter, Student, Teacher

BATCH, PARTITIONS, ROWS = 8, 4, 2


def rows_of(step: int) -> dict[str, Any]:
    """The rows of a step: their numbers."""
    return {"x": torch.arange(step * BATCH, (step + 1) * BATCH)}


def queries_to(topic: str, kafka: dict[str, Any], **options: Any) -> QueryWriter:
    sink = KafkaSink(f"{topic}.queries", partitions=PARTITIONS, **kafka)
    return QueryWriter(sink, **{"rows_per_record": ROWS, **options})


def student_of(topic: str, kafka: dict[str, Any], **options: Any) -> Student:
    student = Student(sample_id="query_id", **{"timeout_s": 60, **options})
    student.register_teacher(KafkaSource(f"{topic}.queries", **kafka))
    student.register_teacher(KafkaSource(topic, **kafka))
    return student


class Answering(threading.Thread):
    """A replica in a thread."""

    def __init__(
        self,
        topic: str,
        kafka: dict[str, Any],
        given: Any = model,
        *,
        queries: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(daemon=True)
        answering: dict[str, Any] = {"timeout_s": options.pop("timeout_s", 300.0)}
        names = ("group", "max_rows", "stay", "group_protocol", "devices", "only", "give_up_after")
        answering |= {name: options.pop(name) for name in names if name in options}
        self.teacher = Teacher(KafkaSink(topic, **kafka), **{"name": "teacher", **options})
        self._arguments = (given, queries or f"{topic}.queries")
        self._options = answering
        self.stats: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.stats = self.teacher.answer(*self._arguments, **self._options).stats
        except BaseException as error:
            self.error = error

    def done(self) -> Any:
        """Wait until it ends; its statistics."""
        self.join(60)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        return self.stats


def set_topic(topic: str, kafka: dict[str, Any], **settings: str) -> None:
    """Change settings of a topic, with `_` for each dot of their names."""
    admin = AdminClient({"bootstrap.servers": kafka["bootstrap_servers"]})
    changes = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in settings.items()
    ]
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
    admin.incremental_alter_configs([resource])[resource].result(20)
