"""The index beside a file: kept, bound to its file, never trusted when it does not fit; and files that are not whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastavro
import pytest
import torch
from support.row_files import assert_same, student_rows, write_file
from support.streams import stream_of

from tutelage import (
    ConfigurationError,
    CorruptData,
    FileSink,
    KnowledgeFile,
    SequenceGap,
    Teacher,
    TruncatedData,
)
from tutelage.consumers.random_access.index_file import index_path
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_format import CODECS, SYNC_BYTES
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.record import Description, End, KeySpec, RecordHead
from tutelage.schemas.record_head import encode_head
from tutelage.schemas.varint import encode_long

PLAIN = Description(
    (
        KeySpec(key="x", dtype="int64", shape=()),
        KeySpec(key="tokens", dtype="int32", shape=(-1,)),
    )
)


class Reads:
    """Counts the bytes that are read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nbytes = self.calls = 0
        pread, preadv = os.pread, os.preadv

        def counted(descriptor: int, nbytes: int, offset: int) -> bytes:
            found = pread(descriptor, nbytes, offset)
            self.count(len(found))
            return found

        def counted_into(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
            found = preadv(descriptor, buffers, offset)
            self.count(found)
            return found

        monkeypatch.setattr(os, "pread", counted)
        monkeypatch.setattr(os, "preadv", counted_into)

    def count(self, nbytes: int) -> None:
        self.nbytes += nbytes
        self.calls += 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of two passes over 20 and 7 rows, in records of three."""
    write_file(tmp_path / "a.avro", PLAIN, [20, 7], 3)
    return tmp_path / "a.avro"


def xs(path: Path, **options: Any) -> list[int]:
    """The column x of all rows."""
    with KnowledgeFile(path, **options) as file:
        return [int(x) for x in file[:]["x"]]


def test_an_index_is_kept_and_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = xs(path)
    assert index_path(path).stat().st_size < 300

    def never(*_: object) -> None:
        raise AssertionError("the blocks were searched")

    monkeypatch.setattr("tutelage.consumers.random_access.index_file.build_index", never)
    assert xs(path) == expected


def test_no_index_is_kept_where_none_is_wanted(path: Path) -> None:
    assert xs(path, keep_index=False)
    assert not index_path(path).exists()


def test_every_byte_of_an_index_is_checked(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = xs(path)
    index = index_path(path)
    whole = index.read_bytes()
    for at in range(len(whole)):
        index.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        caplog.clear()
        assert xs(path) == expected
        assert "is not used" in caplog.text
    index.write_bytes(whole)
    for size in (0, 5, len(whole) - 1):
        index.write_bytes(whole[:size])
        caplog.clear()
        assert xs(path) == expected
        assert "is not used" in caplog.text
        assert index.read_bytes() == whole
    index.write_bytes(whole + bytes(len(path.read_bytes())))
    assert xs(path) == expected


def test_a_changed_file_has_its_index_built_again(
    path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    xs(path)
    old = index_path(path).read_bytes()
    path.unlink()
    # The same run and size, but another file.
    write_file(path, PLAIN, [20, 7], 3)
    assert xs(path) == [int(x) for row in student_rows(path) for x in row["x"]]
    assert "belongs to another file" in caplog.text
    assert index_path(path).read_bytes() != old


def test_a_file_of_somebody_else_s_is_not_replaced(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    index_path(path).write_text("my notes")
    assert xs(path)
    assert index_path(path).read_text() == "my notes"
    assert "is no index of Tutelage's; it is not replaced" in caplog.text


def test_what_is_no_file_is_not_read_as_an_index(path: Path) -> None:
    os.mkfifo(index_path(path))
    assert len(xs(path)) == 20


def test_a_folder_that_cannot_be_written_gets_no_index(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refused(_: Path) -> tuple[int, Path]:
        raise PermissionError(13, "Permission denied")

    # Root may write anywhere, so that permissions would not stop it.
    monkeypatch.setattr("tutelage.consumers.random_access.index_file.new_file", refused)
    caplog.set_level(logging.INFO)
    assert len(xs(path)) == 20
    assert "is not written: Permission denied" in caplog.text
    assert not index_path(path).exists()


@pytest.mark.parametrize("codec", CODECS)
def test_an_unfinished_file_is_the_error_of_a_student(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.avro"
    write_file(path, PLAIN, [20, 7], 3, codec=codec)
    with ContainerReader(path) as reader:
        blocks = list(reader.stored_blocks())
    whole = path.read_bytes()
    for number in (0, 4, len(blocks) - 1):
        path.write_bytes(whole[: blocks[number].offset])
        with pytest.raises(TruncatedData) as ours:
            KnowledgeFile(path)
        with pytest.raises(TruncatedData) as theirs:
            for pass_index in range(2):
                student_rows(path, pass_index=pass_index)
        assert str(ours.value).partition(" after")[0] == str(theirs.value).partition(" after")[0]
        assert "before the end of the run (2 passes)" in str(ours.value)
        assert not index_path(path).exists()
    path.write_bytes(whole[: blocks[3].offset + 9])
    with pytest.raises(TruncatedData, match="the file is cut"):
        KnowledgeFile(path)


def test_a_missing_file_says_whether_its_teacher_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    with pytest.raises(ConfigurationError, match="there is no file"):
        KnowledgeFile(path)
    with Teacher(FileSink(path), rows_per_record=1) as teacher:
        teacher.write({"x": torch.arange(3)})
        with pytest.raises(ConfigurationError, match="its teacher has not finished"):
            KnowledgeFile(path)


@pytest.mark.parametrize("codec", CODECS)
def test_a_damaged_record_is_named_and_the_others_can_be_read(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "a.avro"
    write_file(path, PLAIN, [20], 3, codec=codec)
    expected = xs(path)
    with ContainerReader(path) as reader:
        block = list(reader.stored_blocks())[2]
    raw = bytearray(path.read_bytes())
    raw[block.next_offset - SYNC_BYTES - 3] ^= 16
    path.write_bytes(raw)
    with KnowledgeFile(path) as file:
        for row in range(20):
            if row // 3 == 2:
                for _ in range(2):
                    with pytest.raises(CorruptData, match=f"at byte {block.offset}"):
                        file[row]
            else:
                assert file[row]["x"] == expected[row]


def test_a_damaged_record_is_given_as_it_is_without_verification(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    write_file(path, PLAIN, [20], 3)
    with ContainerReader(path) as reader:
        block = list(reader.stored_blocks())[2]
    raw = bytearray(path.read_bytes())
    raw[block.next_offset - SYNC_BYTES - 3] ^= 16
    path.write_bytes(raw)
    with KnowledgeFile(path, verify=False) as file:
        file[6:9]
    with pytest.raises(CorruptData):
        xs(path)


def test_a_gap_is_found_when_the_index_is_built(path: Path) -> None:
    with ContainerReader(path) as reader:
        block = list(reader.stored_blocks())[2]
    raw = path.read_bytes()
    path.write_bytes(raw[: block.offset] + raw[block.next_offset :])
    with pytest.raises(SequenceGap):
        KnowledgeFile(path)


def test_a_file_that_is_cut_while_it_is_open_is_an_error(path: Path) -> None:
    with KnowledgeFile(path) as file:
        file[0]
        with ContainerReader(path) as reader:
            block = list(reader.stored_blocks())[2]
        os.truncate(path, block.offset + 20)
        assert file[0]
        with pytest.raises(TruncatedData, match="the file is cut"):
            file[7]
        with pytest.raises((CorruptData, TruncatedData)):
            file[19]


def test_records_are_checked_against_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KnowledgeFile(path) as file:
        offsets = file._file.index.offsets
        offsets[[2, 3]] = offsets[[3, 2]]
        with pytest.raises(CorruptData, match="is where record 2 of pass 0 must be"):
            file[7]


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_blocks_of_several_records_by_another_library_are_read(tmp_path: Path, codec: str) -> None:
    ours, theirs = tmp_path / "a.avro", tmp_path / "b.avro"
    write_file(ours, PLAIN, [20, 7], 3)
    with ours.open("rb") as file:
        reader = fastavro.reader(file)
        records = list(reader)
        metadata = {
            key: value for key, value in reader.metadata.items() if key.startswith("tutelage.")
        }
        schema = reader.writer_schema
    with theirs.open("wb") as file:
        fastavro.writer(file, schema, records, codec=codec, sync_interval=300, metadata=metadata)
    with ContainerReader(theirs) as blocks:
        assert max(block.count for block in blocks.stored_blocks()) > 2
    for pass_index in (0, 1):
        # Twice: found in the blocks, and then from the index that was kept.
        for _ in range(2):
            with (
                KnowledgeFile(ours, pass_index=pass_index) as one,
                KnowledgeFile(theirs, pass_index=pass_index) as other,
            ):
                assert_same(other[::-1], one[::-1])


@pytest.mark.parametrize("codec", CODECS)
def test_the_places_of_records_are_found_without_their_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    path = tmp_path / "a.avro"
    wide = Description((KeySpec(key="x", dtype="uint8", shape=(1 << 20,)),))
    write_file(path, wide, [12], 1, codec=codec)
    reads = Reads(monkeypatch)
    with KnowledgeFile(path, keep_index=False) as file:
        assert len(file) == 12
    assert reads.nbytes < 12 * (1 << 20) / 4


def test_a_row_of_a_verified_record_is_read_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.avro"
    description = Description(
        (
            KeySpec(key="x", dtype="float32", shape=(1000,)),
            KeySpec(key="y", dtype="uint8", shape=(-1, 500)),
        )
    )
    write_file(path, description, [100], 50)
    with KnowledgeFile(path) as file:
        file[0]
        reads = Reads(monkeypatch)
        row = file[33]
        assert reads.nbytes == 4000 + 500 * len(row["y"])
        reads.nbytes = reads.calls = 0
        file[10:30]
        assert reads.calls == 2


def sparse_file(path: Path, records: int, rows: int, row_bytes: int) -> None:
    """A file of zeros that takes no room on disk. The checksums of its records are wrong."""
    description = Description((KeySpec(key="x", dtype="uint8", shape=(row_bytes,)),))
    writer = ContainerWriter.create(path, stream_of(rows_per_record=rows), description, "null")
    writer.finish()
    with ContainerReader(path) as reader:
        sync = reader.header.sync
    codec = Codec(description)
    layout = codec.dense_layout(rows)
    assert layout is not None

    def head_of(sequence: int, count: int, end: End | None = None) -> RecordHead:
        return RecordHead(
            run_id="run", pass_index=0, sequence=sequence, rows=count, generation=0, end=end
        )

    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        for sequence in range(records):
            start = encode_head(head_of(sequence, rows), bytes(8)) + layout.prefixes[0]
            size = len(start) + layout.sizes[0]
            file.write(encode_long(1) + encode_long(size) + start)
            file.seek(layout.sizes[0], os.SEEK_CUR)
            file.write(sync)
        last = head_of(records, 0, End(records=records, rows=records * rows))
        body = codec.encode(last, {}).joined()
        file.write(encode_long(1) + encode_long(len(body)) + body + sync)


def test_a_file_of_100_gigabytes_opens_with_few_bytes_and_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.avro"
    sparse_file(path, records=25_000, rows=1000, row_bytes=4000)
    assert path.stat().st_size > 100e9
    reads = Reads(monkeypatch)
    with KnowledgeFile(path) as file:
        assert len(file) == 25_000_000
    # 256 bytes of each of 25,000 blocks, once.
    assert reads.nbytes < 300 * 25_000
    reads.nbytes = reads.calls = 0
    with KnowledgeFile(path, verify=False) as file:
        assert reads.calls <= 4 and reads.nbytes < 65_536 + 9 * 25_000
        reads.nbytes = 0
        assert not file[[24_999_999, 0, 12_345_678]]["x"].any()
        assert reads.nbytes < 3 * (4000 + 1000)
    with KnowledgeFile(path) as file, pytest.raises(CorruptData, match="fails its checksum"):
        file[12_345_678]
