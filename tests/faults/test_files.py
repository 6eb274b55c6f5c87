"""Disks fill, files are cut and changed, and what is read may be a bomb."""

from __future__ import annotations

import json
import os
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import fastavro
import pytest

from faults.cluster import LESSON, ROWS, Cluster, Outcome, one_line
from tutelage import FileSource, Limits, Student
from tutelage.schemas.container_format import encode_header, header_bytes
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import DataError, SchemaError, TutelageError
from tutelage.schemas.varint import encode_long

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"a small file system needs root and mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_10_the_disk_is_full(
    running: Cluster, outcome: Outcome, tmp_path: Path, small_disk: Path
) -> None:
    """the disk is full."""
    out = small_disk / "a.avro"
    command = ("teach", LESSON, "--out", str(out))
    code, _, err = running.begin(*command, cwd=tmp_path, LESSON_SECONDS="0").ended()
    assert code == 4, err
    one_line(err, "a.avro.partial", "No space left")
    assert not out.exists()
    mended = tmp_path / "mended.avro"
    code, said, err = running.begin(
        "repair", str(small_disk / "a.avro.partial"), str(mended), "--json", cwd=tmp_path
    ).ended()
    found = json.loads(said)
    assert (code, found["complete"]) == (5, False), err
    assert 0 < found["rows"] < ROWS
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert running.begin(*command, cwd=tmp_path, LESSON_SECONDS="0").ended()[0] == 0
    running.same(
        running.begin("learn", str(out), "--json", "--batch-size", "32", cwd=tmp_path), outcome
    )
    # What was repaired is gone on with, too.
    assert (
        running.begin(
            "teach", LESSON, "--out", str(mended), cwd=tmp_path, LESSON_SECONDS="0"
        ).ended()[0]
        == 0
    )
    running.same(
        running.begin("learn", str(mended), "--json", "--batch-size", "32", cwd=tmp_path), outcome
    )
    outcome.done = f"exit 4; {found['rows']} rows whole; more room: the same command goes on"


def test_11_a_file_is_cut_or_changed_anywhere(outcome: Outcome, tmp_path: Path) -> None:
    """a file is cut at every byte; every byte is changed."""
    from tutelage import FileSink, Teacher

    whole, bad = tmp_path / "whole.avro", tmp_path / "bad.avro"
    import torch

    with Teacher(FileSink(whole), rows_per_record=8) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(40), batch_size=8)
    data = whole.read_bytes()
    with ContainerReader(whole) as reader:
        body = reader.header.nbytes
    cuts = changes = 0
    for length in range(len(data)):
        bad.write_bytes(data[:length])
        rows, failed = learned(bad)
        assert failed
        assert rows == list(range(len(rows)))
        cuts += 1
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= 0x24
        bad.write_bytes(damaged)
        rows, failed = learned(bad)
        assert rows == list(range(len(rows)))
        # Only documentation in the schema may change unnoticed.
        assert failed or (index < body and len(rows) == 40)
        changes += 1
    outcome.done, outcome.verdict = (
        f"{cuts} cuts, {changes} changed bytes",
        "whole batches, then a typed error; never a wrong one",
    )


def learned(path: Path) -> tuple[list[int], bool]:
    """The numbers a student gets of a file, and whether it then gets a typed error that names the file."""
    rows: list[int] = []
    student = Student(timeout_s=5)
    student.register_teacher(FileSource(path))
    try:
        with student:
            for batch in student.knowledge(4):
                rows += batch["x"].tolist()
    except (DataError, SchemaError) as error:
        assert path.name in str(error)
        return rows, True
    return rows, False


def test_20_bombs(outcome: Outcome, tmp_path: Path) -> None:
    """bombs: packed, deep, huge."""
    made = bombs(tmp_path)
    before = peak_rss(reset=True)
    for path in made:
        began = time.monotonic()
        with (
            pytest.raises(TutelageError, match=path.name),
            ContainerReader(path, limits=Limits(record_bytes=1 << 20)) as reader,
        ):
            list(reader.blocks())
        # Hundredths of a second; only what unpacks without end would take longer than this.
        assert time.monotonic() - began < 5
    grown = (peak_rss() - before) / 1024
    assert grown < 64
    outcome.done, outcome.verdict = f"{len(made)} files", f"a typed error each, +{grown:.0f} MiB"


def peak_rss(*, reset: bool = False) -> int:
    """The most memory this process had, in KiB, since it was last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(Path("/proc/self/status").read_text(encoding="ascii").split("VmHWM:")[1].split()[0])


def bombs(folder: Path) -> list[Path]:
    """Files that would be far larger, or deeper, than they look."""
    import torch

    from tutelage import FileSink, Teacher

    good = folder / "good.avro"
    with Teacher(FileSink(good, codec="deflate"), rows_per_record=8) as teacher:
        teacher.serve(lambda x: {"x": x}, torch.arange(16), batch_size=8)
    with ContainerReader(good) as reader:
        header = reader.header
    start = header_bytes(header)
    packer = zlib.compressobj(9, wbits=-15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    found = []

    def bomb(name: str, content: bytes) -> None:
        (folder / name).write_bytes(content)
        found.append(folder / name)

    bomb("packed.avro", start + encode_long(1) + encode_long(len(packed)) + packed + header.sync)
    bomb("huge.avro", start + encode_long(1) + encode_long(1 << 50) + b"\0" * 100)
    bomb("many.avro", start + encode_long(1 << 40) + encode_long(50) + b"\0" * 50 + header.sync)
    deep = '{"type":"array","items":' * 3000 + '"null"' + "}" * 3000
    bomb(
        "deep.avro", header_bytes(encode_header({**header.metadata, "avro.schema": deep.encode()}))
    )
    wide = json.loads(header.metadata["avro.schema"])
    wide["fields"] *= 20_000
    bomb(
        "wide.avro",
        header_bytes(encode_header({**header.metadata, "avro.schema": json.dumps(wide).encode()})),
    )
    other = folder / "recursive.avro"
    schema = {"type": "record", "name": "R", "fields": [{"name": "next", "type": ["null", "R"]}]}
    with other.open("wb") as file:
        fastavro.writer(file, schema, [{"next": None}], metadata={"x": os.urandom(8).hex()})
    found.append(other)
    return found
