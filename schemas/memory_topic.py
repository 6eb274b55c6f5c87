"""A topic in this process's memory, with partitions, offsets, headers and control messages like a real one.

`MemorySink` writes it and `MemorySource` reads it; both ship with the product, because users test their teachers too. Lists
and deques only grow at one end, which Python does atomically: writer and reader may be different threads.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

Headers = list[tuple[str, bytes]]


@dataclass(kw_only=True, slots=True)
class MemoryTopic:
    """Partitions of (headers, Avro body), the writer's schema, and the two control queues."""

    name: str = "memory"
    partitions: int = 1
    schema: str = ""
    logs: list[list[tuple[Headers, bytes]]] = field(default_factory=list, repr=False)
    to_teacher: deque[Any] = field(default_factory=deque, repr=False)
    to_student: deque[Any] = field(default_factory=deque, repr=False)

    def __post_init__(self) -> None:
        self.logs = [[] for _ in range(self.partitions)]
