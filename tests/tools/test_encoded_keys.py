"""The tools show of encoded keys what people ask for, and check what they hold."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.commands import invoke
from support.encoded import POSITIONS, logits_of
from support.sampled_rows import sampled_row

from tutelage import FileSink, FileSource, Int8, Ragged, Sampled, Teacher, TopK
from tutelage.schemas.codec import Codec
from tutelage.schemas.errors import CorruptData
from tutelage.schemas.record import Description, KeySpec, RecordHead
from tutelage.tools import inspect, verify
from tutelage.tools.encoded_keys import decode_encoded

LOGITS = logits_of(8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "t.avro"
    wire: dict[str, Sampled | TopK | Int8] = {
        "sampled": Sampled(25),
        "top": TopK(12),
        "small": Int8(),
    }
    with Teacher(FileSink(file), wire=wire) as teacher:
        teacher.write({"sampled": LOGITS, "top": LOGITS, "small": LOGITS, "row": torch.arange(8)})
    return file


def test_inspect_shows_entropy_entries_and_the_most_probable_ids(path: Path) -> None:
    found = inspect(FileSource(path), rows=2)
    p = torch.softmax(LOGITS, -1)
    entropy = torch.special.entr(p).sum(-1)
    sampled, top = found.statistics["sampled"], found.statistics["top"]
    assert sampled.mean == pytest.approx(float(entropy.mean()), abs=1e-2)
    assert (sampled.positions, top.entries) == (8 * POSITIONS, 8 * POSITIONS * 12)
    rest = 1 - p.topk(12).values.sum(-1)
    assert top.mean == pytest.approx(float(rest.mean()), abs=1e-3)
    assert found.statistics["small"].high == pytest.approx(float(LOGITS.max()), abs=1e-3)
    first = found.first_rows[0]
    assert [each[0][0] for each in first["top"]] == p[0].argmax(-1).tolist()
    assert len(first["sampled"]) == POSITIONS
    assert sum(count for _, count in first["sampled"][0]) <= 25
    assert np.allclose(first["small"], LOGITS[0], atol=0.1)
    keys = found.as_dict()["keys"]
    assert keys["sampled"]["measure"] == "entropy in nats"
    assert keys["top"]["entries_per_position"] == 12


def test_the_commands_print_what_the_encodings_hold(path: Path) -> None:
    shown = invoke("inspect", str(path)).out
    assert "as sampled:25" in shown and "entropy in nats" in shown
    row = invoke("learn", str(path), "--rows", "1").out.splitlines()[0]
    assert row.startswith('{"sampled": [[[')
    digests = {
        invoke("learn", str(path), "--batch-size", size, "--json").out.split('"digest"')[1]
        for size in ("3", "8")
    }
    assert len({each.split(",")[0] for each in digests}) == 1


def test_learn_does_not_write_distributions_of_which_it_knows_a_few_entries(
    path: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged.avro"
    done = invoke("learn", str(path), "--out", str(out))
    assert done.code != 0
    assert "--out cannot write key 'sampled'" in done.err
    assert not out.exists()


def test_a_row_that_is_no_sampled_row_is_found_although_its_checksum_is_right() -> None:
    spec = KeySpec(key="k", dtype="float32", shape=(1, 300), wire="sampled:25")
    row = sampled_row([[(1, 20), (300, 5)]])
    column = Ragged(np.frombuffer(row, np.uint8), np.array([len(row)]))
    codec = Codec(Description((spec,)))
    head = RecordHead(run_id="r", pass_index=0, sequence=3, rows=1, generation=0)
    record = codec.decode(codec.encode(head, {"k": [column]}).joined(), "here")
    with pytest.raises(CorruptData, match=r"key 'k' of record 3 of pass 0: id 300 lies outside"):
        decode_encoded(spec, record.columns["k"], record.head)


def test_verify_decodes_encoded_keys(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert verify(FileSource(path)).counts.rows == 8
    seen: list[str] = []

    def noted(spec: KeySpec, column: object, head: RecordHead) -> None:
        seen.append(spec.key)

    monkeypatch.setattr(sys.modules["tutelage.tools.verify"], "decode_encoded", noted)
    verify(FileSource(path))
    assert seen == ["sampled", "top", "small"]
