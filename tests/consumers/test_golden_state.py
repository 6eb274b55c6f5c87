"""Files and a checkpoint written once, before the stages became a chain: they are read for ever.

`a.avro` and `b.avro` hold two passes of ten rows in records of 3 and 4 rows; `student.json` was
saved in the second pass behind its first batch of 4. They are never made again to make a test pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tutelage import FileSource, Student

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "student"


def student() -> Student:
    """A student of both files."""
    merging = Student({"x": "mean"}, sample_id="id")
    for name in ("a", "b"):
        merging.register_teacher(FileSource(GOLDEN / f"{name}.avro"))
    return merging


def expected(rows: range) -> dict[str, Any]:
    """The merged batch of some rows: teacher a has x, teacher b three times that."""
    x = torch.arange(20, dtype=torch.float32).reshape(10, 2) * 2
    return {
        "id": list(rows),
        "x": x[rows.start : rows.stop].tolist(),
        "tokens.lengths": [row % 3 for row in rows],
    }


def plain(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {key: batch[key].tolist() for key in ("id", "x", "tokens.lengths")}


def test_files_of_old_give_the_batches_they_always_gave() -> None:
    with student() as merging:
        for _ in range(merging.passes):
            found = [plain(batch) for batch in merging.knowledge(4)]
            assert found == [expected(range(4)), expected(range(4, 8)), expected(range(8, 10))]


def test_a_checkpoint_of_old_gives_the_batches_behind_it() -> None:
    with student() as merging:
        merging.load(GOLDEN / "student.json")
        assert merging.state_dict()["pass_index"] == 1
        found = [plain(batch) for batch in merging.knowledge(4)]
        assert found == [expected(range(4, 8)), expected(range(8, 10))]


def test_a_state_is_written_as_it_always_was(tmp_path: Path) -> None:
    with student() as merging:
        list(merging.knowledge(4))
        batches = merging.knowledge(4)
        next(batches)
        merging.save(tmp_path / "student.json")
        batches.close()
    then, now = (
        json.loads((folder / "student.json").read_text(encoding="utf-8"))
        for folder in (GOLDEN, tmp_path)
    )
    for state in (then, now):
        del state["checksum"]
        for source in state["sources"]:
            # The path as the user gave it.
            del source["source"]
    assert now == then
