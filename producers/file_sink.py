"""Records -> an Avro container file, one record a block; an interrupted file is continued."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tutelage.producers.sink import Sink, Tail, tail_of
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_format import checked_codec
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, partial_path
from tutelage.schemas.errors import ConfigurationError, CorruptData, SinkExists, TruncatedData
from tutelage.schemas.knowledge_schema import schema_of
from tutelage.schemas.record import Description, RecordHead, Stream
from tutelage.schemas.topic import stream_headers


class FileSink(Sink):
    """Writes `path`, through `path`.partial. `codec` is "null" (the fast way), "deflate" or "zstandard".

    Guarantee: `path` exists only when the run is complete, synced and whole; an existing one is kept unless `overwrite`.
    """

    def __init__(self, path: str | os.PathLike[str], *, codec: str = "null", overwrite: bool = False) -> None:
        self._path = Path(path)
        self._codec = checked_codec(codec)
        self._overwrite = overwrite
        self._writer: ContainerWriter | None = None

    def __repr__(self) -> str:
        return f"FileSink({str(self._path)!r}, codec={self._codec!r})"

    @property
    def name(self) -> str:
        return str(self._path)

    @property
    def label(self) -> str:
        return self._path.stem

    def tail(self) -> Tail | None:
        if not self._path.parent.is_dir():
            raise ConfigurationError(f"{self._path}: there is no folder {self._path.parent}; make it first")
        if self._path.exists() and not self._overwrite:
            raise SinkExists(f"{self._path} exists; choose another name, or overwrite it (--overwrite)")
        partial = partial_path(self._path)
        if self._overwrite or not partial.exists() or not partial.stat().st_size:
            return None
        try:
            reader = ContainerReader(partial)
        except CorruptData as error:
            raise SinkExists(f"{error}; it cannot be continued: remove it, or overwrite it (--overwrite)") from error
        with reader:
            last: list[RecordHead] = []
            whole_bytes = reader.header.nbytes
            try:
                for block in reader.blocks():
                    last = [block.records[-1].head]
                    whole_bytes = block.next_offset
            except (TruncatedData, CorruptData):
                # What is not whole is cut off and written again; everything before it passed its checksum.
                pass
            # A file holds the records of all partitions in order, as one partition would.
            tail, _ = tail_of(reader.stream, reader.description, [last])
            self._writer = ContainerWriter.resume(self._path, reader.header, whole_bytes)
            return tail

    def open(self, stream: Stream, description: Description) -> None:
        if self._writer is None:
            metadata = dict(stream_headers(stream))
            self._writer = ContainerWriter.create(self._path, schema_of(description), metadata, self._codec)

    def pack(self, encoded: Encoded) -> list[Any]:
        assert self._writer is not None, "open comes before pack"
        return self._writer.pack(encoded)

    def write(self, head: RecordHead, packed: list[Any]) -> None:
        assert self._writer is not None, "open comes before write"
        self._writer.append(packed)

    def finish(self) -> None:
        assert self._writer is not None, "open comes before finish"
        self._writer.finish()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
