"""What benchmarks run on: processes for the sides, and a broker. They are started when needed."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil

from benchmarks.actors import Actor, Done, Job, cpu_of, together
from benchmarks.measure import Sample
from tutelage.deploy.local import Stack
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.topic_admin import KafkaTopic

_NUMBERS = itertools.count()


class Bench:
    """Processes by name, and a stack.

    The stack belongs to the caller. `close` ends the processes.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._actors: dict[str, Actor] = {}

    def actor(self, name: str) -> Actor:
        """The process of this name. It is started if it is new."""
        if name not in self._actors:
            self._actors[name] = Actor(name)
        return self._actors[name]

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """The arguments of `KafkaSink` and `KafkaSource`. The stack is started if it is not up."""
        addresses = self._stack.up()
        return {"bootstrap_servers": addresses.bootstrap_servers, "registry": addresses.registry}

    @cached_property
    def _connection(self) -> KafkaConnection:
        return KafkaConnection(**self.kafka)

    def topic(self, partitions: int) -> str:
        """Create a topic, and return its name."""
        name = f"bench-{next(_NUMBERS)}"
        KafkaTopic(self._connection, name).create(
            partitions, replication=1, settings={"max.message.bytes": str(16 << 20)}
        )
        return name

    def sent_bytes(self) -> int:
        """The bytes that the broker has sent and written so far."""
        broker = psutil.Process(self._stack.processes()["kafka-1"])
        return int(broker.io_counters().write_chars)

    def one(self, name: str, job: Callable[..., Any], *arguments: Any) -> Done:
        """Run one job in one process."""
        return together([(self.actor(name), job, arguments)])[name]

    def timed(self, jobs: list[Job], topics: list[str], nbytes: int, units: int) -> Sample:
        """Run jobs through the broker.

        Args:
            jobs: The jobs. The student's comes first, and returns the time of its last batch.
            topics: Topics to delete afterwards.
            nbytes: Bytes of tensors that are moved.
            units: Batches that are moved.

        Returns:
            The run's sample.
        """
        broker = self._stack.processes().get("kafka-1")
        before = cpu_of(broker) if broker is not None else 0.0
        done = together(jobs)
        cpu_s = {name: one.cpu_s for name, one in done.items()}
        if broker is not None:
            cpu_s["broker"] = cpu_of(broker) - before
        self._delete(topics)
        return Sample(
            seconds=done["student"].value
            - min(one.began for name, one in done.items() if name != "student"),
            nbytes=nbytes,
            units=units,
            cpu_s=cpu_s,
            peak_rss={name: one.peak_rss for name, one in done.items()},
        )

    def _delete(self, topics: list[str]) -> None:
        if topics:
            admin = self._connection.admin()
            for future in admin.delete_topics(topics).values():
                future.result(30)

    def close(self) -> None:
        """End the processes."""
        for actor in self._actors.values():
            actor.close()
        self._actors.clear()


@contextmanager
def opened() -> Iterator[Bench]:
    """Open a bench with a stack of its own. Both end with the block."""
    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        made = Bench(stack)
        try:
            yield made
        finally:
            made.close()
            stack.down()
