"""The commands in one process: what they print, what they exit with, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import fastavro
import pytest
import torch
from support.commands import Result, invoke

from tutelage import FileSink, Teacher
from tutelage.cli.sources import is_file, parse_pairs
from tutelage.schemas.queries import ANSWERED, GIVEN_UP, QUERY_STATUS

TEACHER1 = "tutelage.examples.toy.lessons:teacher1"
TEACHER2 = "tutelage.examples.toy.lessons:teacher2"


def failed(result: Result, code: int, *words: str) -> str:
    """Assert that a command ended in one line on stderr with these words, and nothing on stdout."""
    assert result.code == code, result
    assert not result.out
    lines = [line for line in result.err.splitlines() if not line.startswith("waiting for")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    return lines[0]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, made current, with the toy's two teachers' files."""
    monkeypatch.chdir(tmp_path)
    for name, teacher in (("t1.avro", TEACHER1), ("t2.avro", TEACHER2)):
        assert invoke("teach", teacher, "--out", name).code == 0
    return tmp_path


def test_teach_learn_inspect_verify(files: Path) -> None:
    learned = invoke("learn", "t1.avro", "t2.avro", "--merge", "result=mean", "--rows", "2")
    rows = [json.loads(line) for line in learned.out.splitlines()[:2]]
    assert rows == [
        {"x": [x], "2x-1": [2 * x - 1], "result": [2.0 * x], "2x+1": [2 * x + 1]} for x in (0, 1)
    ]
    digests = {
        json.loads(
            invoke(
                "learn",
                "t1.avro",
                "t2.avro",
                "-m",
                "result=mean",
                "--batch-size",
                str(size),
                "--json",
            ).out
        )["digest"]
        for size in (1, 7, 64, 5000)
    }
    assert len(digests) == 1
    inspected = json.loads(invoke("inspect", "t1.avro", "--json").out)
    assert inspected["teacher"] == "teacher1"
    key = inspected["keys"]["2x-1"]
    assert (key["dtype"], key["shape"], key["wire"], key["min"], key["max"]) == (
        "int64",
        [1],
        "int64",
        -1,
        1997,
    )
    assert "2x-1    int64[1]" in invoke("inspect", "t1.avro").out
    assert "is whole" in invoke("verify", "t1.avro").out
    assert json.loads(invoke("verify", "t1.avro", "--json").out)["rows"] == 1000


def test_learn_writes_a_file_that_gives_the_same_again(files: Path) -> None:
    first = invoke(
        "learn", "t1.avro", "t2.avro", "-m", "result=sum", "--out", "merged.avro", "--json"
    )
    again = invoke("learn", "merged.avro", "--json")
    assert json.loads(first.out)["digest"] == json.loads(again.out)["digest"]
    with Path("merged.avro").open("rb") as file:
        reader: Any = fastavro.reader(file)
        assert sum(record["rows"] for record in reader) == 1000


def test_learn_leaves_out_what_was_not_answered_only_if_it_is_told_to(files: Path) -> None:
    statuses = torch.tensor([GIVEN_UP, GIVEN_UP, ANSWERED, GIVEN_UP, ANSWERED], dtype=torch.int8)
    with Teacher(FileSink("answers.avro"), rows_per_record=2) as teacher:
        teacher.write({"y": torch.arange(5), QUERY_STATUS: statuses})
    failed(invoke("learn", "answers.avro"), 5, "row 0", "answers gave this query up")
    skipping = ("learn", "answers.avro", "--skip-unanswered", "--batch-size", "2")
    learned = invoke(*skipping, "--rows", "-1", "--out", "answered.avro", "--json")
    rows = [json.loads(line) for line in learned.out.splitlines()]
    assert rows[:2] == [{"y": 2}, {"y": 4}]
    assert rows[2]["rows"] == 2
    again = json.loads(invoke("learn", "answered.avro", "--json").out)
    assert again["digest"] == rows[2]["digest"]


def test_learn_trains_and_goes_on_from_its_checkpoint(files: Path) -> None:
    Path("my_student.py").write_text(
        "seen = []\n"
        "def train(batches):\n"
        "    for index, batch in enumerate(batches):\n"
        "        seen.append(int(batch['x'][0]))\n"
        "        print(seen[-1])\n"
        "        if stop_after and index + 1 == stop_after:\n"
        "            raise SystemExit(9)\n"
        "stop_after = 0\n"
    )
    arguments = (
        "learn",
        "t1.avro",
        "--batch-size",
        "100",
        "--checkpoint",
        "c.json",
        "--checkpoint-every",
        "1",
        "--train",
    )
    stopping = Path("stopping.py")
    stopping.write_text(
        Path("my_student.py").read_text().replace("stop_after = 0", "stop_after = 4")
    )
    stopped = invoke(*arguments, "stopping.py:train")
    assert stopped.code == 9
    assert stopped.out.split() == ["0", "100", "200", "300"]
    resumed = invoke(*arguments, "my_student.py:train")
    assert resumed.code == 0
    # The fourth batch was not finished when the student stopped, so it comes again.
    assert resumed.out.split()[:7] == ["300", "400", "500", "600", "700", "800", "900"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("teach", TEACHER1, "--out", "t1.avro"), 2, ("t1.avro exists", "--overwrite")),
        (("teach", TEACHER1), 2, ("--out FILE.avro or --topic TOPIC",)),
        (("teach", TEACHER1, "--out", "a.avro", "--topic", "a"), 2, ("one of them",)),
        (("teach", "nothing.here:teacher", "--out", "a.avro"), 2, ("no module nothing.here",)),
        (("teach", "json:nothing", "--out", "a.avro"), 2, ("json has no nothing",)),
        (("teach", "json", "--out", "a.avro"), 2, ("MODULE:NAME",)),
        (("teach", "none.py:x", "--out", "a.avro"), 2, ("no file none.py",)),
        (("teach", "json:decoder", "--out", "a.avro"), 2, ("must be a tutelage.Lesson",)),
        (("teach", TEACHER1, "--out", "no/such/folder.avro"), 2, ("no folder no/such",)),
        (("teach", TEACHER1, "--out", "a.avro", "--codec", "bzip2"), 2, ("'bzip2' is not one of",)),
        (("teach", TEACHER1, "--out", "a.avro", "--device", "cuda:7"), 2, ("no CUDA device",)),
        (("learn", "none.avro"), 2, ("no file none.avro",)),
        (("learn", "t1.avro", "t2.avro"), 2, ("key 'result' comes from teacher1", "--merge result=mean")),
        (("learn", "t1.avro", "t2.avro", "-m", "result"), 2, ("KEY=VALUE",)),
        (("learn", "t1.avro", "t2.avro", "-m", "result=median"), 2, ("'median' is no merge strategy",)),
        (("learn", "t1.avro", "t1.avro"), 2, ("registered already",)),
        (("learn", "text.avro"), 5, ("text.avro is not an Avro container file",)),
        (("learn", "empty.avro"), 5, ("empty.avro is empty",)),
        (("learn", "cut.avro"), 5, ("cut.avro, block 0 at byte", "is cut")),
        (("verify", "cut.avro"), 5, ("cut.avro, block 0 at byte", "is cut")),
        (("inspect", "."), 2, ("is a folder",)),
        (("learn", "short.avro", "t1.avro", "-m", "x=first", "-m", "2x-1=first", "-m", "result=max"), 5, ("10 rows", "1000 rows")),
        (("learn", "t1.avro", "-X", "nonsense"), 2, ("-X nonsense",)),
        (("learn", "topic", "-X", "no.such.option=1", "--timeout", "1"), 2, ("no.such.option",)),
        (("teach", "empty.py:lesson", "--out", "a.avro"), 2, ("gave no rows",)),
        (("replay", "none.avro", "topic"), 2, ("no file none.avro",)),
        (("stack", "up", "--brokers", "2", "--folder", "s"), 7, ("1 or 3 brokers",)),
    ],
)  # fmt: skip
def test_each_mistake_ends_in_one_clear_line_and_its_exit_code(
    files: Path, arguments: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    Path("text.avro").write_text("no avro")
    Path("empty.avro").touch()
    Path("cut.avro").write_bytes(Path("t1.avro").read_bytes()[:-20000])
    Path("empty.py").write_text(
        "from tutelage import Lesson\nlesson = Lesson(model=lambda b: {'x': b}, inputs=[])\n"
    )
    Path("short.py").write_text(
        "import torch\nfrom tutelage import Lesson\n"
        "lesson = Lesson(model=lambda b: {'x': b, '2x-1': b, 'result': b}, inputs=torch.arange(10).reshape(-1, 1), batch_size=4)\n"
    )
    assert invoke("teach", "short.py:lesson", "--out", "short.avro").code == 0
    before = {path.name: path.read_bytes() for path in files.glob("*.avro")}
    failed(invoke(*arguments), code, *words)
    assert {path.name: path.read_bytes() for path in files.glob("*.avro")} == before
    assert not list(files.glob("*.partial"))


@pytest.mark.parametrize(
    "command",
    [
        ("teach", TEACHER1, "--topic", "t", "--delivery-timeout", "3"),
        ("learn", "topic:t", "--timeout", "3"),
        ("record", "t", "t.avro", "--timeout", "3"),
        ("verify", "topic:t", "--timeout", "3"),
    ],
)
def test_no_broker_is_waited_for_and_then_one_line(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tutelage.transport.connection.BROKER_TIMEOUT_S", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        for port in (1, silent.getsockname()[1]):
            address = f"127.0.0.1:{port}"
            failed(invoke(*command, "-b", address), 4, f"no Kafka broker answered at {address}")
    assert not list(tmp_path.iterdir())


def test_sources_are_files_where_they_look_like_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    found = {
        text: is_file(text)
        for text in ("a.avro", "a/b", "file:a", "topic:a.avro", "a", "here", "a.avro.partial")
    }
    assert found == {
        "a.avro": True,
        "a/b": True,
        "file:a": True,
        "topic:a.avro": False,
        "a": False,
        "here": True,
        "a.avro.partial": True,
    }
    assert parse_pairs(["a=b=mean", "2x-1=sum"], "-m") == {"a=b": "mean", "2x-1": "sum"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            ((*command, "--timeout", value), ("--timeout is",))
            for command in (("learn", "t1.avro"), ("record", "t", "a.avro"), ("inspect", "t1.avro"), ("verify", "t1.avro"))
            for value in ("nan", "inf", "-1")
        ),
        (("learn", "t1.avro", "--timeout", "0"), ("--timeout is",)),
        (("watch", "t", "--web-port", "70000"), ("--web-port is",)),
        *(
            (("teach", TEACHER1, "--out", "a.avro", flag, value), (f"{flag} is",))
            for flag in ("--passes", "--rows-per-record", "--partitions")
            for value in ("0", "-1", str(2**40))
        ),
        *((("teach", TEACHER1, "--out", "a.avro", flag, ""), (f"{flag} is ''",)) for flag in ("--name", "--run-id", "--device")),
        (("teach", TEACHER1, "--out", "a.avro", "--device", "nonsense"), ("--device 'nonsense'",)),
        (("teach", TEACHER1, "--out", "v.partial"), ("'v.partial' ends in .partial",)),
        (("learn", "t1.avro", "--out", "v.partial"), ("v.partial' ends in .partial",)),
        (("record", "t", "v.partial"), ("'v.partial' ends in .partial",)),
        (("teach", TEACHER1, "--out", "folder"), ("a folder or a device",)),
        (("teach", TEACHER1, "--out", "/dev/null", "--overwrite"), ("a folder or a device",)),
        (("teach", TEACHER1, "--out", ""), ("a folder or a device",)),
        (("learn", "folder"), ("folder is a folder",)),
        (("learn", "pipe.avro"), ("pipe.avro is a pipe, a socket or a device",)),
        (("learn", "x" * 400), ("topic",)),
        (("learn", "t1.avro", "--checkpoint", "no/c.json"), ("--checkpoint no/c.json: there is no folder no",)),
        (("learn", "t1.avro", "--checkpoint", "folder"), ("a folder or a device",)),
        (("learn", "t1.avro", "--checkpoint", "pipe.avro"), ("a folder or a device",)),
        (("learn", "t1.avro", "--train", "takes.py:number"), ("must be a function",)),
        (("learn", "t1.avro", "--sample-id", "\udc80"), ("--sample-id: what is given is not UTF-8",)),
        (("learn", "t1.avro", "-m", "\udc80=mean"), ("--merge: what is given is not UTF-8",)),
        (("learn", "topic:t", "-b", "\udc80"), ("--bootstrap-server: what is given is not UTF-8",)),
        (("teach", "takes.py:lesson", "--out", "a.avro"), ("must be a function without arguments",)),
        (("teach", ".x:y", "--out", "a.avro"), (".x is not the name of a module",)),
        (("teach", "a..b:y", "--out", "a.avro"), ("a..b is not the name of a module",)),
        (("inspect", "t1.avro", "--plot", "folder.png"), ("--plot folder.png is a folder",)),
        (("inspect", "t1.avro", "--plot", "no/a.png"), ("there is no folder no",)),
        (("inspect", "t1.avro", "--plot", "a.txt"), ("ends in .png",)),
        (("demo", "--out-folder", "t1.avro"), ("t1.avro cannot be made",)),
    ],
)  # fmt: skip
def test_arguments_of_a_wrong_kind_are_one_clear_line(
    files: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    Path("folder").mkdir()
    Path("folder.png").mkdir()
    os.mkfifo("pipe.avro")
    Path("takes.py").write_text("number = 5\ndef lesson(size):\n    raise AssertionError\n")
    before = sorted(path.name for path in files.rglob("*"))
    failed(invoke(*arguments), 2, *words)
    # Python may compile the module.
    found = [path.name for path in files.rglob("*") if "__pycache__" not in path.parts]
    assert sorted(found) == before


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            ("watch", "t", "--json", "--every", value)
            for value in ("nan", "inf", "-1", "1e300", "x")
        ),
        *(
            ("learn", "t1.avro", flag, value)
            for flag in ("--batch-size", "--checkpoint-every")
            for value in ("0", "1.5", "nan", str(2**40))
        ),
        ("learn", "t1.avro", "--rows", "-2"),
    ],
)
def test_numbers_out_of_range_are_wrong_use(arguments: tuple[str, ...]) -> None:
    result = invoke(*arguments)
    assert (result.code, result.out) == (2, "")
    assert arguments[-2] in result.err and "Traceback" not in result.err


def test_paths_mean_what_they_meant_when_they_were_given(files: Path) -> None:
    Path("other").mkdir()
    partial = Path("other", "made.avro.partial")
    partial.write_bytes(b"of somebody else")
    Path("wandering.py").write_text(
        "import os, torch\n"
        "from tutelage import Lesson\n"
        f"os.chdir({str(files / 'other')!r})\n"
        "lesson = Lesson(model=lambda batch: {'x': batch}, inputs=torch.arange(10), batch_size=4)\n"
        "def train(batches):\n"
        "    for batch in batches:\n"
        "        pass\n"
    )
    assert invoke("teach", "wandering.py:lesson", "--out", "made.avro").code == 0
    os.chdir(files)
    learned = invoke(
        "learn", "made.avro", "--train", "wandering.py:train", "--checkpoint", "c.json"
    )
    os.chdir(files)
    assert learned.code == 0, learned.err
    assert "10 rows" in learned.out
    assert Path("made.avro").exists() and Path("c.json").exists()
    assert [path.name for path in Path("other").iterdir()] == ["made.avro.partial"]
    assert partial.read_bytes() == b"of somebody else"
