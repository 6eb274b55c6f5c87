"""An Avro container file -> records, as far as the file is whole."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

from tutelage.consumers.source import Arrival, Opened, Position, Source
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path
from tutelage.schemas.errors import ConfigurationError, TruncatedData


class FileSource(Source):
    """Reads `path`, written by a `FileSink` or recorded from a topic. `verify=False` trusts the checksums.

    Guarantee: what is read is what was written; where the file is cut or changed, an error with file, block and byte.
    """

    def __init__(self, path: str | os.PathLike[str], *, verify: bool = True) -> None:
        self._path = Path(path)
        self._verify = verify
        self._reader: ContainerReader | None = None

    def __repr__(self) -> str:
        return f"FileSource({str(self._path)!r})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_reader": None}

    @property
    def name(self) -> str:
        return str(self._path)

    def connect(self) -> None:
        # A file that is not there is said at once, not after a wait for another teacher's topic.
        self._refuse_missing()

    def open(self, timeout_s: float) -> Opened:
        reader = self._opened()
        return Opened(stream=reader.stream, description=reader.description, schema=reader.schema, partitions=1)

    def _opened(self) -> ContainerReader:
        if self._reader is None:
            self._refuse_missing()
            self._reader = ContainerReader(self._path, verify=self._verify)
        return self._reader

    def _refuse_missing(self) -> None:
        if not self._path.exists():
            partial = partial_path(self._path)
            hint = f"; {partial} is there, so its teacher has not finished" if partial.exists() else ""
            raise ConfigurationError(f"there is no file {self._path}{hint}")

    def read(self, position: Position) -> Generator[Arrival | None, None, None]:
        reader = self._opened()
        offset = position.offsets[0] if position.offsets and position.offsets[0] >= 0 else None
        last = f"record {position.sequence - 1} of pass {position.pass_index}" if position.sequence else "its header"
        at = offset
        for block in reader.blocks(offset):
            for index, record in enumerate(block.records):
                final = index == len(block.records) - 1
                last = str(record.head)
                yield Arrival(
                    partition=0,
                    offset=block.offset,
                    next_offset=block.next_offset if final else block.offset,
                    record=record,
                    where=f"{self._path}, block {block.index} at byte {block.offset}",
                )
            at = block.next_offset
        raise TruncatedData(
            f"{self._path} ends at byte {at if at is not None else reader.header.nbytes} after {last}, before the end of the run "
            f"({reader.stream.passes} passes): its teacher was interrupted; start it again to go on, or `tutelage verify` it"
        )

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
