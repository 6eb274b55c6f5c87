"""Records of R rows become batches of the student's size, from any position."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.streams import NUMBERS, arrivals_of, numbers_in, partitioned, records_of, stream_of

from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.sources.file import FileSource
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.order import Order, PassEnd
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Stream
from tutelage.schemas.stored_block import StoredRecord

ROW_BYTES = 8


def rebatch_of(
    stream: Stream, batch_size: int, position: Position, chunk_bytes: int = 0
) -> Rebatch:
    return Rebatch(
        batch_size,
        description=NUMBERS,
        partitions=stream.partitions,
        position=position,
        chunk_bytes=chunk_bytes,
    )


def chunks_of(
    stream: Stream,
    arrivals: list[ConsumedRecord],
    batch_size: int,
    position: Position,
    *,
    chunk_bytes: int = 0,
    flush: int = 0,
) -> list[Chunk]:
    """All chunks from a position on, read through a source, an `Order` and a `Rebatch`.

    The rebatch is flushed after a given number of records.
    """
    order = Order(stream, stream.partitions, position)
    rebatch = rebatch_of(stream, batch_size, position, chunk_bytes)
    found: list[Chunk] = []
    for arrival in arrivals:
        order.push(arrival)
    count = 0
    while (item := order.pop()) is not None:
        rebatch.push(item)
        count += 1
        if flush and count % flush == 0:
            rebatch.flush()
        while (chunk := rebatch.pop()) is not None:
            chunk.load()
            found.append(chunk)
        if isinstance(item, PassEnd):
            break
    return found


def from_logs(logs: list[list[bytes]], position: Position) -> list[ConsumedRecord]:
    starts = [max(0, offset) for offset in position.offsets] or [0] * len(logs)
    return [arrival for queue in arrivals_of(logs, starts) for arrival in queue]


def numbers(chunks: list[Chunk]) -> list[int]:
    return [number for chunk in chunks for number in numbers_in(chunk.dense["x"])]


@given(
    st.integers(1, 4),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 400),
    st.integers(0, 3),
)
def test_chunks_are_whole_batches_in_order_and_every_position_gives_the_rest(
    partitions: int, size: int, rows: int, batch_size: int, chunk_bytes: int, flush: int
) -> None:
    stream = stream_of(partitions=partitions, rows_per_record=size, passes=2)
    records = [*records_of(stream, rows), *records_of(stream, rows, pass_index=1)]
    logs = partitioned(stream, records)
    whole = chunks_of(
        stream,
        from_logs(logs, Position()),
        batch_size,
        Position(),
        chunk_bytes=chunk_bytes,
        flush=flush,
    )
    assert numbers(whole) == list(range(rows))
    assert all(chunk.rows % batch_size == 0 for chunk in whole[:-1])
    assert [one.resume.after(one.rows) for one in whole[:-1]] == [
        other.resume.start for _, other in pairwise(whole)
    ]
    before = 0
    for chunk in whole:
        for row in {*range(0, chunk.rows, batch_size), chunk.rows}:
            position = chunk.resume.after(row)
            rest = chunks_of(stream, from_logs(logs, position), batch_size, position)
            assert numbers(rest) == list(range(before + row, rows))
        before += chunk.rows


@given(
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 400),
    st.integers(0, 3),
)
def test_what_is_read_straight_from_a_file_is_what_is_read_record_by_record(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    rows: int,
    batch_size: int,
    chunk_bytes: int,
    flush: int,
) -> None:
    path = tmp_path_factory.mktemp("rebatch") / "a.avro"
    stream = stream_of(rows_per_record=size)
    write(path, stream, rows)
    source = FileSource(path)
    arrivals = read(source)
    assert all(
        isinstance(arrival.record, StoredRecord) == (arrival.record.head.end is None)
        for arrival in arrivals
    )
    chunks = chunks_of(
        stream, arrivals, batch_size, Position(), chunk_bytes=chunk_bytes, flush=flush
    )
    assert numbers(chunks) == list(range(rows))
    position = chunks[0].resume.after(min(batch_size, chunks[0].rows))
    rest = read(source, position)
    assert numbers(chunks_of(stream, rest, batch_size, position)) == list(
        range(min(batch_size, rows), rows)
    )
    source.close()


def test_a_chunk_that_cannot_be_read_says_how_much_of_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    stream = stream_of(rows_per_record=4)
    write(path, stream, 16)
    source = FileSource(path)
    arrivals = read(source)
    damaged = bytearray(path.read_bytes())
    damaged[arrivals[2].next_offset - 20] ^= 1
    path.write_bytes(damaged)
    rebatch = rebatch_of(stream, 2, Position(), 1000)
    for arrival in arrivals[:4]:
        rebatch.push(arrival)
    rebatch.flush()
    chunk = rebatch.pop()
    assert chunk is not None
    with pytest.raises(
        CorruptData, match=f"byte {arrivals[2].offset}: record 2 of pass 0 fails its checksum"
    ):
        chunk.load()
    assert chunk.rows == 8
    assert numbers_in(chunk.dense["x"])[:8] == list(range(8))
    source.close()


def write(path: Path, stream: Stream, rows: int) -> None:
    writer = ContainerWriter.create(path, stream, NUMBERS)
    for head, body in records_of(stream, rows):
        writer.append(writer.pack(Encoded(head=head, buffers=[body], nbytes=len(body))))
    writer.finish()


def read(source: FileSource, position: Position | None = None) -> list[ConsumedRecord]:
    """All records up to the end of the pass."""
    found: list[ConsumedRecord] = []
    for arrival in source.read(position or Position()):
        assert arrival is not None
        found.append(arrival)
        if arrival.record.head.end is not None:
            break
    return found


def test_a_batch_far_larger_than_the_pass_takes_only_the_memory_of_its_rows() -> None:
    stream = stream_of(rows_per_record=4)
    logs = partitioned(stream, records_of(stream, 30))
    (chunk,) = chunks_of(stream, from_logs(logs, Position()), 1 << 40, Position())
    assert numbers([chunk]) == list(range(30))
    assert chunk.nbytes == 30 * ROW_BYTES
