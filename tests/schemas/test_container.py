"""Container files: what is written comes back, by any Avro library; what is not whole is named to the byte."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.knowledge import column_of, descriptions, same
from support.streams import NUMBERS, stream_of

from tutelage.schemas import disk
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import CODECS
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, partial_path
from tutelage.schemas.errors import (
    ConfigurationError,
    CorruptData,
    DataError,
    SchemaError,
    SinkExists,
    TruncatedData,
)
from tutelage.schemas.knowledge_schema import schema_from_description
from tutelage.schemas.limits import Limits
from tutelage.schemas.record import Column, Description, KeySpec, Record, RecordHead

STREAM = stream_of(rows_per_record=5)


def head_of(sequence: int, rows: int = 5) -> RecordHead:
    return RecordHead(run_id="run", pass_index=0, sequence=sequence, rows=rows, generation=0)


def written(
    path: Path,
    description: Description,
    records: list[dict[str, list[Column]]],
    codec: str = "null",
) -> None:
    writer = ContainerWriter.create(path, STREAM, description, codec)
    encoder = Codec(description)
    for sequence, columns in enumerate(records):
        writer.append(writer.pack(encoder.encode(head_of(sequence), columns)))
    writer.finish()


def numbers(count: int) -> list[dict[str, list[Column]]]:
    return [{"x": [np.arange(5).reshape(5, 1) + 5 * index]} for index in range(count)]


def read(path: Path) -> list[Record]:
    with ContainerReader(path) as reader:
        return [record for block in reader.blocks() for record in block.records]


@given(descriptions(max_keys=2), st.integers(0, 4), st.integers(0, 999), st.sampled_from(CODECS))
@settings(max_examples=60, deadline=None)
def test_records_come_back_in_every_codec(
    tmp_path_factory: pytest.TempPathFactory,
    description: Description,
    count: int,
    seed: int,
    codec: str,
) -> None:
    path = tmp_path_factory.mktemp("container") / "a.avro"
    random = np.random.default_rng(seed)
    records: list[dict[str, list[Column]]] = [
        {spec.key: [column_of(spec, 5, random)] for spec in description.specs} for _ in range(count)
    ]
    written(path, description, records, codec)
    with ContainerReader(path) as reader:
        assert (reader.description, reader.stream) == (description, STREAM)
    found = read(path)
    assert [record.head for record in found] == [head_of(index) for index in range(count)]
    for columns, record in zip(records, found, strict=True):
        assert all(same(column, record.columns[key]) for key, (column,) in columns.items())


@pytest.mark.parametrize("codec", CODECS)
def test_fastavro_reads_our_files_and_we_read_its(tmp_path: Path, codec: str) -> None:
    ours, theirs = tmp_path / "ours.avro", tmp_path / "theirs.avro"
    written(ours, NUMBERS, numbers(7), codec)
    with ours.open("rb") as file:
        reader: Any = fastavro.reader(file)
        values = list(reader)
        metadata = {
            key: value for key, value in reader.metadata.items() if key.startswith("tutelage.")
        }
    assert [value["sequence"] for value in values] == list(range(7))
    with theirs.open("wb") as file:
        # Several records a block, as other writers do.
        fastavro.writer(
            file,
            json.loads(schema_from_description(NUMBERS)),
            values,
            codec=codec,
            metadata=metadata,
            sync_interval=400,
        )
    again = read(theirs)
    assert [record.head.sequence for record in again] == list(range(7))
    assert all(
        same(one.columns["x"], other.columns["x"])
        for one, other in zip(read(ours), again, strict=True)
    )


def test_reading_may_begin_at_any_block(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    written(path, NUMBERS, numbers(6))
    with ContainerReader(path) as reader:
        for index, block in enumerate(list(reader.blocks())):
            rest = [
                record.head.sequence
                for later in reader.blocks(block.offset)
                for record in later.records
            ]
            assert rest == list(range(index, 6))


@pytest.mark.parametrize("codec", CODECS)
def test_a_file_cut_anywhere_gives_its_whole_blocks_and_then_says_where(
    tmp_path: Path, codec: str
) -> None:
    path, cut = tmp_path / "a.avro", tmp_path / "cut.avro"
    written(path, NUMBERS, numbers(4), codec)
    data = path.read_bytes()
    with ContainerReader(path) as reader:
        ends = [reader.header.nbytes, *(block.next_offset for block in reader.blocks())]
    for length in range(len(data)):
        cut.write_bytes(data[:length])
        if length < ends[0]:
            with pytest.raises(DataError, match=r"cut\.avro"):
                ContainerReader(cut)
            continue
        whole = sum(end <= length for end in ends[1:])
        found: list[int] = []
        with ContainerReader(cut) as reader:
            if length in ends:
                found += [block.index for block in reader.blocks()]
            else:
                with pytest.raises(TruncatedData, match=f"block {whole} at byte {ends[whole]}"):
                    found.extend(block.index for block in reader.blocks())
        assert found == list(range(whole))


@pytest.mark.parametrize("codec", CODECS)
def test_a_changed_byte_anywhere_never_gives_other_records(tmp_path: Path, codec: str) -> None:
    path, bad = tmp_path / "a.avro", tmp_path / "bad.avro"
    written(path, NUMBERS, numbers(3), codec)
    data = path.read_bytes()
    good = [record.raw.tobytes() for record in read(path)]
    with ContainerReader(path) as reader:
        body, stream, description = reader.header.nbytes, reader.stream, reader.description
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 0x41
        bad.write_bytes(damaged)
        found: list[bytes] = []
        try:
            with ContainerReader(bad) as reader:
                assert (reader.stream, reader.description) == (stream, description)
                found.extend(
                    record.raw.tobytes() for block in reader.blocks() for record in block.records
                )
        except (DataError, SchemaError) as error:
            assert "bad.avro" in str(error)
        else:
            # Only documentation in the schema may change unnoticed.
            assert index < body
            assert len(found) == len(good)
        assert found == good[: len(found)]


def test_a_block_that_would_unpack_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    for codec in ("deflate", "zstandard"):
        written(path, NUMBERS, [{"x": [np.zeros((5, 1), np.int64)]}] * 2, codec)
        with (
            pytest.raises(CorruptData, match="too large|over the limit"),
            ContainerReader(path, limits=Limits(record_bytes=50)) as reader,
        ):
            list(reader.blocks())
        assert len(read(path)) == 2


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04zip", b"Obj", b"Obj\x01", b"Obj\x01\x80", b"Obj\x01\x02\x0aavro."]
)
def test_what_is_no_container_is_refused_with_its_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "no.avro"
    path.write_bytes(content)
    with pytest.raises(CorruptData, match=r"no\.avro"):
        ContainerReader(path)


def test_a_container_of_something_else_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "other.avro"
    with path.open("wb") as file:
        fastavro.writer(
            file,
            {"type": "record", "name": "R", "fields": [{"name": "a", "type": "int"}]},
            [{"a": 1}],
        )
    with pytest.raises(SchemaError, match=r"other\.avro.*not a knowledge schema"):
        ContainerReader(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.avro"):
        with pytest.raises(ConfigurationError, match=str(path)):
            ContainerReader(path)


def test_a_file_has_its_name_only_when_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    writer = ContainerWriter.create(path, STREAM, NUMBERS)
    assert partial_path(path).exists()
    assert not path.exists()
    writer.finish()
    assert path.exists()
    assert not partial_path(path).exists()


def test_two_writers_of_one_file_are_one_too_many(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    writer = ContainerWriter.create(path, STREAM, NUMBERS)
    with pytest.raises(SinkExists, match="another process"):
        ContainerWriter.create(path, STREAM, NUMBERS)
    writer.close()


def test_a_record_of_many_buffers_is_written_whole(tmp_path: Path) -> None:
    description = Description(
        tuple(KeySpec(key=f"k{index}", dtype="uint8", shape=(600,)) for index in range(700))
    )
    random = np.random.default_rng(0)
    columns: dict[str, list[Column]] = {
        spec.key: [column_of(spec, 5, random)] for spec in description.specs
    }
    written(tmp_path / "a.avro", description, [columns])
    (record,) = read(tmp_path / "a.avro")
    assert all(same(record.columns[key], column) for key, (column,) in columns.items())


def test_a_writer_that_comes_while_another_finishes_leaves_the_finished_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.avro"
    first: list[ContainerWriter] = [ContainerWriter.create(path, STREAM, NUMBERS)]

    def locked(descriptor: int, partial: Path) -> bool:
        # The second has opened the file; now the first finishes it, and lets its lock go.
        while first:
            first.pop().finish()
        return disk.lock_file(descriptor, partial)

    monkeypatch.setattr("tutelage.schemas.container_writer.lock_file", locked)
    finished = partial_path(path).read_bytes()
    with pytest.raises(SinkExists, match="exists"):
        ContainerWriter.create(path, STREAM, NUMBERS, replace=False)
    assert path.read_bytes() == finished


def test_another_file_than_the_one_that_was_read_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    writer = ContainerWriter.create(path, STREAM, NUMBERS)
    writer.close()
    with ContainerReader(partial_path(path)) as reader:
        header = reader.header
    other = ContainerWriter.create(path, STREAM, NUMBERS)
    other.append(other.pack(Codec(NUMBERS).encode(head_of(0), numbers(1)[0])))
    other.close()
    before = partial_path(path).read_bytes()
    with pytest.raises(SinkExists, match="replaced by another file"):
        ContainerWriter.resume(path, header, header.nbytes)
    assert partial_path(path).read_bytes() == before


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.avro")
    with pytest.raises(ConfigurationError, match="is a pipe, a socket or a device"):
        ContainerReader(tmp_path / "pipe.avro")


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5", None, 2**63, float("nan")])
@pytest.mark.parametrize("name", ["record_bytes", "schema_bytes", "keys", "dimensions"])
def test_limits_are_whole_numbers_above_zero(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"limit {name} is"):
        Limits(**{name: value})
    seven: Any = np.int64(7)
    assert type(getattr(Limits(**{name: seven}), name)) is int
