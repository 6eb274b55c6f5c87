"""Files that a teacher could have written, and that take far more memory to read than they have bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from support.streams import stream_of

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import Header, compress, header_bytes
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.headers import header_checksum, stream_headers
from tutelage.schemas.record import Column, Description, End, RecordHead, Stream
from tutelage.schemas.varint import encode_long

Rows = Iterable[tuple[int, dict[str, list[Column]]]]


def written(
    path: Path,
    description: Description,
    records: Rows,
    *,
    rows_per_record: int,
    codec: str = "zstandard",
) -> Path:
    """A whole file of these records, each given as its rows and its columns."""
    writer = ContainerWriter.create(
        path, stream_of(rows_per_record=rows_per_record), description, codec
    )
    encoder, sequence, total = Codec(description), 0, 0
    for rows, columns in records:
        head = RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=rows, generation=0)
        writer.append(writer.pack(encoder.encode(head, columns)))
        sequence, total = sequence + 1, total + rows
    end = End(records=sequence, rows=total)
    head = RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=0, generation=0, end=end)
    writer.append(writer.pack(encoder.encode(head, {})))
    writer.finish()
    return path


def in_one_block(path: Path, description: Description, bodies: list[bytes], codec: str) -> Path:
    """A file whose one block holds these records."""
    stream = stream_of(rows_per_record=1)
    writer = ContainerWriter.create(path, stream, description, codec)
    writer.finish()
    with ContainerReader(path) as reader:
        header = reader.header
    payload = b"".join(bodies) if codec == "null" else b"".join(compress(codec, [b"".join(bodies)]))
    path.write_bytes(
        header_bytes(header)
        + encode_long(len(bodies))
        + encode_long(len(payload))
        + payload
        + header.sync
    )
    return path


def claiming(path: Path, description: Description, **claims: object) -> Path:
    """A file whose header claims this of its stream, with a checksum that fits."""
    writer = ContainerWriter.create(path, stream_of(), description)
    writer.finish()
    with ContainerReader(path) as reader:
        header = reader.header
    stream: Stream = replace(stream_of(), **claims)  # type: ignore[arg-type]
    fields = dict(stream_headers(stream, description))
    metadata = {
        **header.metadata,
        **fields,
        "tutelage.checksum": header_checksum(stream, description),
    }
    path.write_bytes(header_bytes(Header(metadata=metadata, sync=header.sync, nbytes=0)))
    return path


def tiny_bodies(
    description: Description, columns: dict[str, list[Column]], count: int
) -> Iterator[bytes]:
    """Records of one row each, as alike as numbers and checksums let them be."""
    codec = Codec(description)
    for sequence in range(count):
        head = RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=1, generation=0)
        yield codec.encode(head, columns).joined()
