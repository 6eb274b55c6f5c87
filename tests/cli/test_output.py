"""What commands print can be read by any program and shown by any terminal, whatever the values, keys and names are."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from support.commands import invoke

from tutelage import FileSink, MemorySink, MemorySource, Teacher
from tutelage.cli.strict_json import as_json
from tutelage.tools.key_statistics import KeyStatistics
from tutelage.transport.memory_topic import MemoryTopic

TUTELAGE = [sys.executable, "-c", "from tutelage.cli.main import run; run()"]
#: A locale that knows nothing but ASCII, and Python's own ways around it turned off.
ASCII_ONLY = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ODD_KEY = "é日本 $x$\n\\bad"


def strict(text: str) -> Any:
    """JSON as other languages read it."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A file of every kind of number that JSON lacks, under a key that few terminals can show."""
    path = tmp_path / "odd.avro"
    nan, inf = float("nan"), float("inf")
    with Teacher(FileSink(path)) as teacher:
        teacher.write(
            {
                ODD_KEY: torch.tensor([[nan, 1.0], [inf, -inf], [1.0, 2.0]]),
                "complex": torch.tensor([1 + 2j, complex(nan, inf), 0]),
                "half complex": np.array([(1.0, 2.0)] * 3, [("real", "<f2"), ("imag", "<f2")]),
                "bfloat16": torch.tensor([nan, inf, 1.0], dtype=torch.bfloat16),
                "float8": torch.tensor([nan, 0.5, 1.0]).to(torch.float8_e4m3fn),
                "large": torch.full((3,), 1.7e308, dtype=torch.float64),
                "small": torch.full((3,), -1.7e308, dtype=torch.float64),
                "flag": torch.tensor([True, False, True]),
                "whole": torch.tensor([2**63 - 1, -(2**63), 0]),
            }
        )
    return path


def test_rows_are_strict_json(odd: Path) -> None:
    result = invoke("learn", str(odd), "--rows", "-1", "--json")
    assert result.code == 0, result.err
    rows = [strict(line) for line in result.out.splitlines()]
    assert [row[ODD_KEY] for row in rows[:3]] == [[None, 1.0], [None, None], [1.0, 2.0]]
    assert [row["complex"] for row in rows[:3]] == [[1.0, 2.0], [None, None], [0.0, 0.0]]
    assert [row["half complex"] for row in rows[:3]] == [[1.0, 2.0]] * 3
    assert [row["bfloat16"] for row in rows[:3]] == [None, None, 1.0]
    assert [row["whole"] for row in rows[:3]] == [2**63 - 1, -(2**63), 0]
    assert (rows[3]["rows"], rows[3]["whole"]) == (3, True)


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_in_a_file_is_said_in_strict_json(odd: Path, command: str) -> None:
    result = invoke(command, str(odd), "--json")
    assert result.code == 0, result.err
    found = strict(result.out)
    if command == "inspect":
        assert found["first_rows"][1]["complex"] == [None, None]
        assert found["first_rows"][0]["half complex"] == [1.0, 2.0]
        assert (found["keys"]["large"]["mean"], found["keys"]["small"]["mean"]) == (
            1.7e308,
            -1.7e308,
        )
        assert all(
            sum(key["histogram"]["counts"]) for name, key in found["keys"].items() if name != "bool"
        )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": float("nan"), "b": [float("inf"), -float("inf")]}, '{"a": null, "b": [null, null]}'),
        (1 + 2j, "[1.0, 2.0]"),
        (complex("nan"), "[null, 0.0]"),
        (b"\xff\x00", '"/wA="'),
        ((1, (2,)), "[1, [2]]"),
        (np.float32("nan"), "null"),
        (np.float64(0.5), "0.5"),
        (np.int8(-3), "-3"),
        (np.bool_(True), "true"),
        (np.arange(3), "[0, 1, 2]"),
        (np.array([1, float("nan")], np.float32), "[1.0, null]"),
        (ml_dtypes.bfloat16(1.5), "1.5"),
        (np.array([1.5, float("inf")], ml_dtypes.bfloat16), "[1.5, null]"),
        (torch.tensor([1.5, float("nan")], dtype=torch.bfloat16), "[1.5, null]"),
        (Path("a/b"), '"a/b"'),
        ({1: None, False: float("inf")}, '{"1": null, "false": null}'),
        ({None: b""}, '{"null": ""}'),
        ({"é": "日本"}, '{"é": "日本"}'),
        ({"\udc80": "\ud800"}, r'{"\udc80": "\ud800"}'),
    ],
)
def test_values_in_json(value: Any, text: str) -> None:
    assert as_json(value) == text
    strict(text)


@pytest.mark.parametrize("value", [object(), {1, 2}, {(1, 2): 3}, {"a": len}, {b"key": 1}])
def test_a_value_without_a_form_in_json_is_not_turned_into_text(value: Any) -> None:
    with pytest.raises(TypeError, match="JSON"):
        as_json(value)


@pytest.mark.parametrize(
    "arguments",
    [
        ("learn", "odd.avro", "--rows", "3"),
        ("learn", "odd.avro", "--rows", "-1", "--json"),
        ("learn", "odd.avro", "-m", "é日本=mean"),
        ("inspect", "odd.avro"),
        ("inspect", "odd.avro", "--json"),
        ("verify", "odd.avro"),
        ("verify", "odd.avro", "--json"),
        ("repair", "odd.avro", "é日本.avro"),
        ("verify", "gibt es nicht: é日本.avro"),
        ("learn", "é"),
        ("--help",),
        ("learn", "--help"),
    ],
)
def test_a_terminal_that_knows_only_ascii_gets_ascii_and_no_traceback(
    odd: Path, arguments: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [*TUTELAGE, *arguments],
        cwd=odd.parent,
        env={**os.environ, **ASCII_ONLY},
        capture_output=True,
        timeout=120,
        check=False,
    )
    out, err = done.stdout.decode("ascii"), done.stderr.decode("ascii")
    assert "Traceback" not in err, err
    assert done.returncode in (
        (0, 2) if {"é", "é日本=mean", "gibt es nicht: é日本.avro"} & set(arguments) else (0,)
    ), err
    if "--json" in arguments:
        for line in out.splitlines():
            strict(line)
    if arguments == ("inspect", "odd.avro"):
        assert "#" in out and r"\u2588" not in out


def test_a_key_that_is_typed_is_the_same_key_in_any_locale(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with Teacher(FileSink(tmp_path / f"{name}.avro")) as teacher:
            teacher.write({"é": torch.ones(3)})
    command = [*TUTELAGE, "learn", "a.avro", "b.avro", "-m", "é=mean", "--rows", "1"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **ASCII_ONLY},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == rb'{"\u00e9": 1.0}'


@pytest.mark.parametrize(
    "arguments",
    [("inspect", "odd.avro"), ("learn", "odd.avro", "--rows", "-1"), ("verify", "odd.avro")],
)
def test_output_that_cannot_be_written_is_one_line(odd: Path, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*TUTELAGE, *arguments],
            cwd=odd.parent,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 4
    assert done.stderr == f"error: standard output cannot be written: {os.strerror(errno.ENOSPC)}\n"


@pytest.mark.parametrize("ending", [".png", ".SVG", ".pdf"])
def test_any_key_and_any_value_can_be_drawn(odd: Path, ending: str) -> None:
    result = invoke("inspect", str(odd), "--plot", str(odd.with_suffix(ending)))
    assert result.code == 0, result.err
    assert odd.with_suffix(ending).stat().st_size > 1000


def test_a_picture_has_no_more_keys_than_it_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.cli.histogram_plot._MOST_HISTOGRAMS", 2)
    with Teacher(FileSink(tmp_path / "a.avro")) as teacher:
        teacher.write({f"key {index}": torch.arange(3) for index in range(5)})
    result = invoke("inspect", str(tmp_path / "a.avro"), "--plot", str(tmp_path / "a.png"))
    assert result.code == 0
    assert "draws the first 2 of 5 keys" in result.err


@pytest.mark.parametrize("batches", [1, 7, 100])
def test_the_mean_of_the_largest_numbers_is_one(batches: int) -> None:
    largest = np.finfo(np.float64).max
    found = KeyStatistics()
    for _ in range(batches):
        found.add(np.array([largest, largest, -largest]))
    assert found.mean == pytest.approx(largest / 3)


# Rows of a topic whose teacher has not finished.


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Have every SOURCE be a topic with so many rows in records of so many, of a teacher that goes on."""

    def begun(rows: int, rows_per_record: int) -> None:
        topic = MemoryTopic()
        teacher = Teacher(MemorySink(topic), rows_per_record=rows_per_record, passes=2)
        teacher.start()
        teacher.write({"x": torch.arange(rows)})
        monkeypatch.setattr(
            "tutelage.cli.sources.make_source", lambda *_, **__: MemorySource(topic)
        )

    return begun


@pytest.mark.parametrize(
    ("rows", "there", "rows_per_record"), [(3, 3, 1), (3, 8, 4), (100, 101, 1), (1, 4, 4)]
)
def test_rows_of_a_live_topic_are_printed_as_soon_as_they_are_there(
    live: Callable[[int, int], None], rows: int, there: int, rows_per_record: int
) -> None:
    live(there, rows_per_record)
    result = invoke("learn", "topic:t", "--rows", str(rows), "--timeout", "5", "--json")
    assert result.code == 0, result.err
    lines = [strict(line) for line in result.out.splitlines()]
    assert [line["x"] for line in lines[:-1]] == list(range(rows))
    assert (lines[-1]["rows"], lines[-1]["whole"], lines[-1]["passes"]) == (rows, False, 0)


def test_people_are_told_that_only_some_rows_were_read(live: Callable[[int, int], None]) -> None:
    live(5, 1)
    out = invoke("learn", "topic:t", "--rows", "2", "--timeout", "5").out
    assert "the first 2 rows" in out and "digest of these rows" in out


def test_rows_may_come_of_several_passes_and_minus_one_is_all(tmp_path: Path) -> None:
    path = tmp_path / "a.avro"
    with Teacher(FileSink(path), passes=2) as teacher:
        for _ in range(2):
            teacher.write({"x": torch.arange(5)})
            teacher.end_pass()
    found = {}
    for rows in (7, 10, 12, -1):
        lines = [
            strict(line)
            for line in invoke("learn", str(path), "--rows", str(rows), "--json").out.splitlines()
        ]
        found[rows] = ([line["x"] for line in lines[:-1]], lines[-1]["rows"], lines[-1]["whole"])
    both = [0, 1, 2, 3, 4] * 2
    assert found == {
        7: (both[:7], 7, False),
        10: (both, 10, False),
        12: (both, 10, True),
        -1: (both, 10, True),
    }


def test_all_is_read_where_rows_are_printed_beside_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Teacher(FileSink("a.avro")) as teacher:
        teacher.write({"x": torch.arange(5)})
    for other in (("--out", "b.avro"), ("--checkpoint", "c.json")):
        result = invoke("learn", "a.avro", "--rows", "2", "--json", *other)
        lines = [strict(line) for line in result.out.splitlines()]
        assert [line.get("x") for line in lines[:2]] == [0, 1]
        assert (len(lines), lines[-1]["rows"], lines[-1]["whole"]) == (3, 5, True)
