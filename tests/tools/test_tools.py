"""The commands' work as a library: typed results, progress by callback, nothing printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tutelage import (
    DataError,
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    SinkExists,
    Teacher,
)
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.record import Record
from tutelage.tools import Counts, inspect, record, repair, replay, verify


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A run of two passes of ten rows, four rows a record."""
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), passes=2, rows_per_record=4) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(10), batch_size=5)
    return path


def test_a_topic_is_recorded_and_replayed_byte_for_byte(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []
    topic = MemoryTopic()
    replayed = replay(file, MemorySink(topic), progress=lambda counts: seen.append(counts.records))
    assert (replayed.passes, replayed.records, replayed.rows) == (2, 6, 20)
    assert seen == [1, 2, 3, 3, 4, 5, 6, 6]
    recorded = record(MemorySource(topic), tmp_path / "b.avro")
    assert recorded == Counts(passes=2, records=6, rows=20, nbytes=replayed.nbytes)
    assert [record.raw for record in _records(file)] == [
        record.raw for record in _records(tmp_path / "b.avro")
    ]
    with pytest.raises(SinkExists, match="holds all of this run"):
        record(MemorySource(topic), tmp_path / "b.avro")
    assert capsys.readouterr() == ("", "")


def _records(file: Path) -> list[Record]:
    with ContainerReader(file) as reader:
        return [record for block in reader.blocks() for record in block.records]


def test_what_is_whole_is_verified_and_what_is_not_is_counted_up_to_there(
    file: Path, tmp_path: Path
) -> None:
    found = verify(FileSource(file))
    assert (found.counts.rows, found.stream.passes) == (20, 2)
    cut = tmp_path / "cut.avro"
    cut.write_bytes(file.read_bytes()[:-100])
    counts = Counts()
    with pytest.raises(DataError):
        verify(FileSource(cut), counts=counts)
    assert 0 < counts.rows < 20 or counts.passes < 2


def test_a_damaged_file_is_repaired_to_what_is_whole(file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.avro"
    cut.write_bytes(file.read_bytes()[:-1])
    mended = repair(cut, tmp_path / "mended.avro")
    assert not mended.complete
    assert Path(mended.target).is_file() and mended.rows <= 20


def test_a_source_is_inspected(file: Path) -> None:
    found = inspect(FileSource(file), rows=2)
    assert [row["x"] for row in found.first_rows] == [0, 1]
    assert (found.survey.rows, found.survey.flaw) == (20, None)
    assert found.statistics["x"].high == 9
    assert found.as_dict()["keys"]["x"]["dtype"] == "int64"
