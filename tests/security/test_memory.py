"""Small files that take much memory to read: each is refused, or read within a bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.commands import invoke
from support.hostile_files import in_one_block, tiny_bodies, written
from support.peak_memory import peak_growth

from tutelage import FileSource, Limits, RaggedFormat, Student
from tutelage.consumers.position import Position
from tutelage.consumers.sources.base import ConsumedRecord
from tutelage.consumers.stages.rebatch import Rebatch
from tutelage.schemas.codec import Codec
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import BatchTooLarge, ConfigurationError, CorruptData, SchemaError
from tutelage.schemas.record import Column, Description, KeySpec, Ragged, RecordHead

MIB = 1 << 20
RAGGED = Description((KeySpec(key="tokens", dtype="uint8", shape=(-1,)),))
NOTHING = Description((KeySpec(key="x", dtype="float32", shape=(0,)),))

pytestmark = pytest.mark.timeout(280)


def ragged(*lengths: int) -> tuple[int, dict[str, list[Column]]]:
    """A record of rows of so many zeros."""
    return len(lengths), {"tokens": [Ragged(np.zeros(sum(lengths), np.uint8), np.array(lengths))]}


def dense(width: int) -> Description:
    return Description((KeySpec(key="x", dtype="uint8", shape=(width,)),))


READ = """
student = Student({arguments})
student.register_teacher(FileSource("a.avro"))
batches = rows = 0
with student:
    try:
        for batch in student.knowledge({batch_size}):
            batches, rows = batches + 1, rows + len(next(iter(batch.values())))
            del batch
    except TutelageError as error:
        print(type(error).__name__, error)
print(batches, rows)
"""


def test_a_small_file_whose_batch_would_be_padded_to_gigabytes_is_refused_with_what_to_do(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.avro", RAGGED, [ragged(32 * MIB, *[0] * 63)], rows_per_record=64)
    assert path.stat().st_size < 8000
    growth, said = peak_growth(READ.format(arguments="", batch_size=64), tmp_path)
    assert growth < 400 * MIB
    for words in ("BatchTooLarge", "key 'tokens'", "64 rows", "longest of 33,554,432 elements", f"{64 * 32 * MIB:,} bytes",
                  f"limit batch_bytes is {1 << 30:,}", "smaller batch size (--batch-size)", "RaggedFormat(padded=False)",
                  "Student(limits=Limits(batch_bytes="):  # fmt: skip
        assert words in said, said
    assert said.endswith("\n0 0")


def test_the_remedies_that_the_error_names_work(tmp_path: Path) -> None:
    written(tmp_path / "a.avro", RAGGED, [ragged(MIB, *[0] * 15)], rows_per_record=16)

    def rows(batch_size: int, **options: object) -> int:
        student = Student(**options)  # type: ignore[arg-type]
        student.register_teacher(FileSource(tmp_path / "a.avro"))
        with student:
            return sum(len(batch["tokens.lengths"]) for batch in student.knowledge(batch_size))

    limits = Limits(batch_bytes=2 * MIB)
    with pytest.raises(BatchTooLarge, match=r"Limits\(batch_bytes=16777344\)"):
        rows(16, limits=limits)
    assert rows(1, limits=limits) == 16
    assert rows(16, limits=limits, ragged_format=RaggedFormat(padded=False)) == 16
    assert rows(16, limits=Limits(batch_bytes=16777344)) == 16
    learn = ("learn", str(tmp_path / "a.avro"), "--batch-size", "16", "--batch-bytes")
    refused = invoke(*learn, str(2 * MIB))
    assert (refused.code, "--batch-bytes 16777344" in refused.err) == (2, True), refused.err
    assert invoke(*learn, "16777344").code == 0
    with pytest.raises(ConfigurationError, match="limits is 5; it must be a Limits"):
        Student(limits=5)  # type: ignore[arg-type]


def test_batches_before_one_that_is_too_large_are_given(tmp_path: Path) -> None:
    records = [ragged(1, 2), ragged(3, 4), ragged(4 * MIB, 0)]
    written(tmp_path / "a.avro", RAGGED, records, rows_per_record=2)
    student = Student(limits=Limits(batch_bytes=2 * MIB))
    student.register_teacher(FileSource(tmp_path / "a.avro"))
    found: list[list[int]] = []
    with student, pytest.raises(BatchTooLarge):
        found.extend(batch["tokens.lengths"].tolist() for batch in student.knowledge(2))
    assert found == [[1, 2], [3, 4]]


@pytest.mark.parametrize("key", ["dense", "ragged"])
def test_a_batch_of_many_large_rows_is_refused_when_it_passes_the_limit_not_when_it_is_whole(
    tmp_path: Path, key: str
) -> None:
    wide: tuple[int, dict[str, list[Column]]] = (1, {"x": [np.zeros((1, 16 * MIB), np.uint8)]})
    row = wide if key == "dense" else ragged(16 * MIB)
    written(
        tmp_path / "a.avro",
        dense(16 * MIB) if key == "dense" else RAGGED,
        [row] * 64,
        rows_per_record=1,
    )
    assert (tmp_path / "a.avro").stat().st_size < MIB
    growth, said = peak_growth(
        READ.format(arguments="limits=Limits(batch_bytes=64 << 20)", batch_size=64), tmp_path
    )
    assert "BatchTooLarge" in said
    assert growth < 550 * MIB


def test_batches_of_any_kind_that_are_within_the_limit_are_read_in_bounded_memory(
    tmp_path: Path,
) -> None:
    """What is read ahead was counted in rows of the first record's size, and merged batches by their number."""
    short = [ragged(*[0] * 64)] * 4
    long = [ragged(MIB, *[0] * 15), ragged(0, 0, 0, 0, MIB, *[0] * 11)] * 60
    written(
        tmp_path / "a.avro", RAGGED, [*[ragged(*[0] * 16)] * len(short), *long], rows_per_record=16
    )
    growth, said = peak_growth(
        READ.format(arguments="prefetch=64, limits=Limits(batch_bytes=64 << 20)", batch_size=16),
        tmp_path,
    )
    assert said == f"{len(long) + len(short)} {16 * (len(long) + len(short))}"
    assert growth < 550 * MIB


@pytest.mark.parametrize("codec", ["null", "zstandard"])
def test_a_block_of_very_many_tiny_records_takes_little_more_memory_than_it_has_bytes(
    tmp_path: Path, codec: str
) -> None:
    count = 100_000
    # One key of a byte and others without any: what the objects around a record take is nearly all there is.
    description = Description((KeySpec(key="x", dtype="bool", shape=()),))
    bodies = list(tiny_bodies(description, {"x": [np.zeros(1, np.bool_)]}, count))
    in_one_block(tmp_path / "a.avro", description, bodies, codec)
    script = """
seen = Counts()
source = FileSource("a.avro")
try:
    for record in in_order(source, source.open(0), timeout_s=5):
        seen.add(record)
except TutelageError as error:
    print(type(error).__name__)
print(seen.records)
"""
    growth, said = peak_growth(script, tmp_path)
    assert said == f"TruncatedData\n{count}"
    assert growth < 40 * MIB


@pytest.mark.parametrize("codec", ["deflate", "zstandard"])
def test_large_blocks_are_unpacked_one_at_a_time(tmp_path: Path, codec: str) -> None:
    """Four at once would be as many times the limit of a record, from a file of a few kilobytes."""
    width = 96 * MIB

    def records() -> Iterator[tuple[int, dict[str, list[Column]]]]:
        for _ in range(8):
            yield 1, {"x": [np.zeros((1, width), np.uint8)]}

    written(tmp_path / "a.avro", dense(width), records(), rows_per_record=1, codec=codec)
    script = """
import time
source, rows = FileSource("a.avro"), 0
for record in in_order(source, source.open(0), timeout_s=5):
    rows += record.head.rows
    # Whoever trains on it is slower than whoever unpacks.
    time.sleep(0.3)
print(rows)
"""
    growth, said = peak_growth(script, tmp_path)
    assert said == "8"
    # One that is used, one that is decompressed, and the pieces that its bytes are joined from: 288
    # MiB. On a busy machine also the 64 MiB that each of two threads decompresses before it leaves a
    # block for its turn. Four blocks at once would be 768 MiB and more.
    assert growth < 500 * MIB


def test_rows_that_hold_nothing_are_limited_on_both_sides(tmp_path: Path) -> None:
    head = RecordHead(run_id="run", pass_index=0, sequence=0, rows=2**31 - 1, generation=0)
    large = Codec(NOTHING, limits=Limits(empty_rows=2**31))
    body = large.encode(head, {"x": [np.zeros((2**31 - 1, 0), np.float32)]}).joined()
    assert len(body) < 64
    with pytest.raises(CorruptData, match="2147483647 rows that hold nothing are over the limit"):
        Codec(NOTHING).decode(body, "here")
    with pytest.raises(SchemaError, match="smaller rows_per_record"):
        Codec(NOTHING).encode(head, {"x": [np.zeros((2**31 - 1, 0), np.float32)]})
    path = in_one_block(tmp_path / "a.avro", NOTHING, [body], "null")
    with (
        ContainerReader(path) as reader,
        pytest.raises(CorruptData, match="rows that hold nothing"),
    ):
        for block in reader.stored_blocks():
            assert block.record() is None
            block.records()


def test_rows_that_hold_nothing_count_in_what_is_read_ahead() -> None:
    rows = 1 << 16
    rebatch = Rebatch(16, description=NOTHING, partitions=1, position=Position())
    head = RecordHead(run_id="run", pass_index=0, sequence=0, rows=rows, generation=0)
    record = Codec(NOTHING).decode(
        Codec(NOTHING).encode(head, {"x": [np.zeros((rows, 0), np.float32)]}).joined(), "here"
    )
    rebatch.push(ConsumedRecord(partition=0, offset=0, next_offset=1, record=record, where="here"))
    chunks = []
    while (chunk := rebatch.pop()) is not None:
        chunks.append(chunk)
    assert len(chunks) == rows // 16 // 1024
    assert all(chunk.nbytes == 0 and chunk.memory_bytes >= 1024 for chunk in chunks)
