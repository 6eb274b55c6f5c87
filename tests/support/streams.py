"""Streams made by hand, for tests of the pure stages: records as a source would give them, in any order and with any faults."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.schemas.codec import Codec
from tutelage.schemas.record import Column, Description, End, KeySpec, RecordHead, Stream

NUMBERS = Description((KeySpec(key="x", dtype="int64", shape=(1,)),))


def stream_of(
    *,
    partitions: int = 1,
    rows_per_record: int = 4,
    passes: int = 1,
    run_id: str = "run",
    teacher: str = "t",
) -> Stream:
    """An identity with what the test cares about."""
    return Stream(
        run_id=run_id,
        teacher=teacher,
        revision="",
        inputs_fingerprint="",
        passes=passes,
        partitions=partitions,
        rows_per_record=rows_per_record,
        created=0.0,
        version="test",
    )


def records_of(
    stream: Stream, rows: int, *, pass_index: int = 0, generation: int = 0, end_only: bool = False
) -> list[tuple[RecordHead, bytes]]:
    """One pass over the numbers 0 to rows - 1 (plus 1000 a pass), as heads and Avro bodies, its end last."""
    codec = Codec(NUMBERS)
    size = stream.rows_per_record
    made: list[tuple[RecordHead, bytes]] = []
    count = -(-rows // size)
    for sequence in range(0 if not end_only else count, count):
        numbers = np.arange(sequence * size, min(rows, (sequence + 1) * size)) + 1000 * pass_index
        head = RecordHead(
            run_id=stream.run_id,
            pass_index=pass_index,
            sequence=sequence,
            rows=len(numbers),
            generation=generation,
        )
        made.append((head, codec.encode(head, {"x": [numbers.reshape(-1, 1)]}).joined()))
    head = RecordHead(
        run_id=stream.run_id,
        pass_index=pass_index,
        sequence=count,
        rows=0,
        generation=generation,
        end=End(records=count, rows=rows),
    )
    made.append((head, codec.encode(head, {}).joined()))
    return made


def partitioned(stream: Stream, records: Iterable[tuple[RecordHead, bytes]]) -> list[list[bytes]]:
    """The bodies as they lie in each partition of the stream's topic."""
    logs: list[list[bytes]] = [[] for _ in range(stream.partitions)]
    for head, body in records:
        for partition in (
            range(stream.partitions) if head.end else (head.sequence % stream.partitions,)
        ):
            logs[partition].append(body)
    return logs


def arrivals_of(
    logs: Sequence[Sequence[bytes]], start: Sequence[int] | None = None
) -> list[list[ConsumedRecord]]:
    """The arrivals of each partition, from the given offsets on."""
    codec = Codec(NUMBERS)
    first = start or [0] * len(logs)
    return [
        [
            ConsumedRecord(
                partition=partition,
                offset=offset,
                next_offset=offset + 1,
                record=codec.decode(body, "test"),
                where=f"partition {partition}, offset {offset}",
            )
            for offset, body in enumerate(log)
            if offset >= max(0, first[partition])
        ]
        for partition, log in enumerate(logs)
    ]


def numbers_in(column: Column) -> list[int]:
    """The numbers of column x."""
    assert isinstance(column, np.ndarray)
    return [int(number) for number in column[:, 0]]
