"""What is whole of a damaged file is kept, and its teacher goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.commands import invoke
from support.streams import NUMBERS, records_of, stream_of

from tutelage.schemas.codec import Codec, Encoded
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import ContainerWriter, partial_path
from tutelage.schemas.record import End, RecordHead

LESSON = "tutelage.examples.toy.lessons:teacher1"


def teach(path: Path) -> None:
    assert invoke("teach", LESSON, "--out", str(path), "--rows-per-record", "100").code == 0


def raw(path: Path) -> list[bytes]:
    """The numbers of each record of a file; not its bytes, because a restarted teacher raises one of them."""
    found: list[bytes] = []
    with ContainerReader(path) as reader:
        for block in reader.blocks():
            for record in block.records:
                column = record.columns.get("x")
                found.append(column.tobytes() if isinstance(column, np.ndarray) else b"end")
    return found


@pytest.mark.parametrize("damage", ["cut", "changed", "cut at a block's end"])
def test_a_damaged_file_is_gone_on_with(tmp_path: Path, damage: str) -> None:
    whole, bad, out = tmp_path / "whole.avro", tmp_path / "bad.avro", tmp_path / "out.avro"
    teach(whole)
    with ContainerReader(whole) as reader:
        blocks = list(reader.blocks())
    data = bytearray(whole.read_bytes())
    if damage == "changed":
        data[blocks[4].offset + 200] ^= 8
    else:
        del data[blocks[4].offset + (30 if damage == "cut" else 0) :]
    bad.write_bytes(data)
    done = invoke("repair", str(bad), str(out), "--json")
    found = json.loads(done.out)
    assert (
        done.code,
        found["complete"],
        found["rows"],
        found["next_record"],
        found["next_row"],
    ) == (5, False, 400, 4, 400)
    assert ("bad.avro" in found["stopped"]) and not out.exists() and partial_path(out).exists()
    teach(out)
    assert raw(out) == raw(whole)
    assert invoke("verify", str(out)).code == 0


def test_a_whole_file_is_copied_and_nothing_is_written_over(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole.avro", tmp_path / "out.avro"
    teach(whole)
    done = invoke("repair", str(whole), str(out))
    assert done.code == 0
    assert "nothing is missing" in done.out
    assert raw(out) == raw(whole)
    again = invoke("repair", str(whole), str(out))
    assert (again.code, again.err) == (2, f"error: {out} is there already; name another file\n")


def test_a_file_without_a_header_cannot_be_repaired(tmp_path: Path) -> None:
    (tmp_path / "no.avro").write_bytes(b"Obj\x01 and then nothing")
    done = invoke("repair", str(tmp_path / "no.avro"), str(tmp_path / "out.avro"))
    assert done.code == 5
    assert done.err.startswith("error: ")
    assert list(tmp_path.glob("out*")) == []


def written(path: Path, lengths: list[int], end: End | None) -> None:
    """A file of one pass with records of these lengths, where four are due, and an end that says something."""
    writer, codec, first = ContainerWriter.create(path, stream_of(), NUMBERS), Codec(NUMBERS), 0
    for sequence, rows in enumerate([*lengths, 0] if end is not None else lengths):
        head = RecordHead(
            run_id="run",
            pass_index=0,
            sequence=sequence,
            rows=rows,
            generation=0,
            end=end if sequence == len(lengths) else None,
        )
        columns = {"x": [np.arange(first, first + rows).reshape(-1, 1)]} if head.end is None else {}
        writer.append(writer.pack(codec.encode(head, columns)))
        first += rows
    writer.finish()


@pytest.mark.parametrize(
    ("lengths", "end", "kept", "words"),
    [
        ([4, 4, 4], End(records=3, rows=11), [4, 4, 4], "ends with 11 rows, but 12 came"),
        ([4, 4, 2], End(records=3, rows=12), [4, 4], "ends with 12 rows, but 10 came"),
        ([4, 2, 4], End(records=3, rows=10), [4], "short"),
        ([4, 4, 2], End(records=2, rows=8), [4, 4], "end"),
        ([4, 4, 2], None, [4, 4, 2], "ends at byte"),
    ],
)
def test_a_pass_whose_end_says_other_rows_than_came_is_not_whole(
    tmp_path: Path, lengths: list[int], end: End | None, kept: list[int], words: str
) -> None:
    written(tmp_path / "bad.avro", lengths, end)
    assert invoke("verify", str(tmp_path / "bad.avro")).code == 5
    done = invoke("repair", str(tmp_path / "bad.avro"), str(tmp_path / "out.avro"), "--json")
    found = json.loads(done.out)
    assert (done.code, found["complete"], found["passes"]) == (5, False, 0)
    assert words in found["stopped"]
    assert (found["records"], found["rows"], found["next_record"]) == (
        len(kept),
        sum(kept),
        len(kept),
    )
    assert not (tmp_path / "out.avro").exists()
    with ContainerReader(partial_path(tmp_path / "out.avro")) as reader:
        assert [record.head.rows for block in reader.blocks() for record in block.records] == kept


def test_a_short_last_record_is_whole_with_its_end(tmp_path: Path) -> None:
    stream = stream_of(passes=2)
    writer = ContainerWriter.create(tmp_path / "a.avro", stream, NUMBERS)
    for pass_index in (0, 1):
        for head, body in records_of(stream, 10, pass_index=pass_index):
            writer.append(writer.pack(Encoded(head=head, buffers=[body], nbytes=len(body))))
    writer.finish()
    done = invoke("repair", str(tmp_path / "a.avro"), str(tmp_path / "out.avro"), "--json")
    assert done.code == 0, done
    assert (json.loads(done.out)["rows"], json.loads(done.out)["records"]) == (20, 6)
    assert invoke("verify", str(tmp_path / "out.avro")).code == 0


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("v.partial", "ends in .partial"),
        ("no/out.avro", "there is no folder"),
        ("folder", "a folder"),
        ("link.avro", "is there already"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, out: str, words: str) -> None:
    teach(tmp_path / "whole.avro")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.avro").symlink_to("whole.avro")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = invoke("repair", str(tmp_path / "whole.avro"), str(tmp_path / out))
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
