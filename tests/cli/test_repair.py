"""What is whole of a damaged file is kept, and its teacher goes on with it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from commands import invoke

from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.container_writer import partial_path

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
    assert (done.code, found["complete"], found["rows"], found["next_record"], found["next_row"]) == (5, False, 400, 4, 400)
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
