"""A `MemoryTopic` -> its records, in the process that writes it. For tests without a broker."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord, Source, StreamInfo
from tutelage.schemas.codec import Codec
from tutelage.schemas.knowledge_schema import description_from_schema
from tutelage.schemas.record import Stream
from tutelage.schemas.record_head import decode_head
from tutelage.transport.memory_topic import MemoryTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_POLL_S = 0.005


class MemorySource(Source):
    """Reads a run from a `MemoryTopic`, for tests in one process.

    Guarantee: the same as for a topic on a broker. Records of other runs are skipped and counted.

    Args:
        topic: The topic to read.
        run: The run's name. If not given, the newest run.

    Raises:
        WaitTimeout: The run did not appear in time; raised by the student.
    """

    def __init__(self, topic: MemoryTopic, *, run: str | None = None) -> None:
        self._topic = topic
        self._run = run
        self._resumes = False
        self._needed: frozenset[int] | None = None
        self._offsets: list[int] = []
        self._opened: StreamInfo | None = None
        self._control = topic.conversation("student")

    def __repr__(self) -> str:
        return f"MemorySource({self._topic.name!r})"

    @property
    def name(self) -> str:
        return self._topic.name

    def is_same(self, other: Source) -> bool:
        # Two memory topics may have the same name, so they are compared by identity.
        return isinstance(other, MemorySource) and self._topic is other._topic

    @property
    def online(self) -> bool:
        return True

    def only(self, partitions: frozenset[int] | None) -> None:
        self._needed = partitions

    def choose_run(self, run_id: str, identity: Mapping[str, str]) -> None:
        if self._run is None:
            self._run, self._resumes = run_id, True

    def open(self, timeout_s: float) -> StreamInfo:
        if self._opened is not None:
            return self._opened
        what = "the first record" if self._run is None else f"the first record of run {self._run}"
        wait = Wait(f"{what} of memory topic {self.name!r}", timeout_s=timeout_s, log=log)
        while (stream := self._find_run()) is None:
            wait.tick()
            time.sleep(_POLL_S)
        schema = next(
            entry.schema
            for entries in self._topic.logs
            for entry in entries
            if entry.run_id == stream.run_id
        )
        description = description_from_schema(schema, self.name)
        self._control.conversation.run_id = stream.run_id
        self._opened = StreamInfo(
            stream=stream, description=description, schema=schema, partitions=stream.partitions
        )
        return self._opened

    def _find_run(self) -> Stream | None:
        """The run to read, or None if it is not there yet."""
        named = next((run for run in self._topic.runs() if run.run_id == self._run), None)
        # If a checkpoint's run is missing, the newest run is opened, and `from_state_dict` raises
        # when it compares the two.
        return named or (self._topic.newest_run() if self._run is None or self._resumes else None)

    def pass_rows(self) -> Mapping[int, int]:
        run_id = self.open(0.0).stream.run_id
        heads = [
            decode_head(memoryview(entry.body))[0]
            for entry in self._topic.logs[0]
            if entry.run_id == run_id
        ]
        return {head.pass_index: head.end.rows for head in heads if head.end is not None}

    def read(self, position: Position) -> Generator[ConsumedRecord | None, None, None]:
        opened = self.open(0.0)
        codec = Codec(opened.description)
        self._offsets = offsets = [max(0, offset) for offset in position.offsets] or [
            0
        ] * self._topic.partitions
        begun = [offset > 0 for offset in offsets]
        while True:
            came = given = False
            for partition, entries in enumerate(self._topic.logs):
                if self._needed is not None and partition not in self._needed:
                    continue
                if offsets[partition] < len(entries):
                    offset = offsets[partition]
                    offsets[partition] += 1
                    came = True
                    if entries[offset].run_id != opened.stream.run_id:
                        # Before the run's first record it is of an older run, as expected. After
                        # it, a writer that was thought dead wrote it.
                        self.stale_records += begun[partition]
                        continue
                    begun[partition] = True
                    where = f"memory topic {self.name}, partition {partition}, offset {offset}"
                    record = codec.decode(entries[offset].body, where)
                    given = True
                    yield ConsumedRecord(
                        partition=partition,
                        offset=offset,
                        next_offset=offset + 1,
                        record=record,
                        where=where,
                    )
            if not given:
                yield None
            if not came:
                time.sleep(_POLL_S)

    def reached(self) -> Sequence[tuple[int, int]]:
        return [
            (at, len(entries)) for at, entries in zip(self._offsets, self._topic.logs, strict=False)
        ]

    def send(self, value: Any) -> None:
        self._control.send(value)

    def recv(self, timeout_s: float) -> Any:
        return self._control.recv(timeout_s)

    def ask(self, value: Any, timeout_s: float) -> Any:
        return self._control.ask(value, timeout_s)

    def close(self) -> None:
        self._opened = None
