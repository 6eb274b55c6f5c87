"""What a student is called with is checked at the call, and what it keeps of it is plain JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.teaching import student_of, teach, xs

from tutelage import (
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    RaggedFormat,
    Student,
    Teacher,
)
from tutelage.consumers.checkpoint_file import load_checkpoint, save_checkpoint
from tutelage.schemas.errors import (
    ConfigurationError,
    MergeError,
    RunMismatch,
    TutelageError,
    WaitTimeout,
)

NAN, INF = float("nan"), float("inf")
NO_COUNTS = [0, -1, True, 4.0, "4", NAN, None, [4], np.float32(4), np.array([4, 5]), 2**40]
NO_SECONDS = [0, -1, NAN, INF, "5", True, [1]]
NO_FLAGS = ["no", 0, 1, None]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("prefetch", NO_COUNTS),
        ("budget_bytes", NO_COUNTS[:-1]),
        ("timeout_s", [*NO_SECONDS, None]),
        ("pin_memory", NO_FLAGS),
        ("allow_other_inputs", NO_FLAGS),
        ("on_length_mismatch", ["ignore", None, True, 1]),
        ("sample_id", [5, b"id", ["id"]]),
        (
            "merge",
            [
                ["mean"],
                "mean",
                5,
                {5: "mean"},
                {"x": 5},
                {"x": None},
                {"x": ["mean"]},
                {"x": b"mean"},
            ],
        ),
        ("ragged_format", [{"pad_value": 0}, 5, "left"]),
    ],
)
def test_an_argument_of_another_kind_is_refused_where_it_is_given(
    name: str, values: list[Any]
) -> None:
    for value in values:
        with pytest.raises(ConfigurationError, match=f"{name}|key"):
            pytest.fail(f"{Student(**{name: value})} with {name}={value!r}")


@pytest.mark.parametrize(
    "options",
    [
        {"padded": "no"}, {"pad_left": 1}, {"pad_value": "0"}, {"pad_value": None}, {"pad_value": [0]}, {"pad_value": {"r": "0"}},
        {"pad_value": {5: 0}}, {"pad_value": np.zeros(2)}, {"pad_value": 1j},
    ],
    ids=str,
)  # fmt: skip
def test_ragged_options_of_another_kind_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RaggedFormat(**options)


def test_calls_with_arguments_of_another_kind_are_refused_and_change_nothing(
    topic: MemoryTopic, tmp_path: Path
) -> None:
    student: Any = student_of(topic)
    with student:
        calls: list[Callable[[Any], Any]] = [
            student.knowledge,
            student.dataset,
            lambda value: student.recv(0, timeout_s=value if value is not None else "none"),
            lambda value: student.recv(value if not isinstance(value, int) or value < 0 else True),
            lambda value: student.send(
                "hello", teachers=[value if isinstance(value, str) or value is None else 7]
            ),
        ]
        for call in calls:
            for value in (-1, True, "4", NAN, None, [4]):
                with pytest.raises(ConfigurationError):
                    call(value)
        for value in (0, 4.0, np.float64(4)):
            for call in calls[:2]:
                with pytest.raises(ConfigurationError, match="batch_size"):
                    call(value)
        for wrong in NO_FLAGS:
            for asked in ({"drop_last": wrong}, {"own_memory": wrong}):
                with pytest.raises(ConfigurationError):
                    student.knowledge(4, **asked)
            with pytest.raises(ConfigurationError):
                student.dataset(4, drop_last=wrong)
        for pass_index in (-1, True, 0.0, "0", NAN):
            with pytest.raises(ConfigurationError, match="pass_index"):
                student.knowledge(4, pass_index=pass_index)
        for teachers in (0, "0", True, [0.0]):
            with pytest.raises(ConfigurationError, match="teacher"):
                student.send("hello", teachers=teachers)
        for path in (None, 5, "", b"s.json", ["s.json"], "a\0b"):
            for keep in (student.save, student.load):
                with pytest.raises(ConfigurationError, match="path"):
                    keep(path)
        states: list[Any] = [None, 5, [], "state"]
        for state in states:
            with pytest.raises(TutelageError):
                student.load_state_dict(state)
        with pytest.raises(WaitTimeout):
            student.recv(0, timeout_s=0)
        assert not topic.to_teacher
        assert len(xs(student.knowledge(4))) == 5
    with pytest.raises(ConfigurationError, match="no source; use FileSource"):
        student.register_teacher("a.avro")


def test_a_message_to_a_teacher_that_is_not_there_is_sent_to_nobody(topic: MemoryTopic) -> None:
    with student_of(topic) as student, pytest.raises(ConfigurationError, match="no teacher 3"):
        student.send("hello", teachers=[0, 3])
    assert not topic.to_teacher


@pytest.mark.parametrize("size", [np.int64(4), np.uint8(4), torch.tensor(4), np.array(4)], ids=str)
def test_any_kind_of_integer_is_a_batch_size_and_is_kept_as_a_plain_one(
    topic: MemoryTopic, tmp_path: Path, size: Any
) -> None:
    path = tmp_path / "s.json"
    student: Any = student_of(
        topic, prefetch=np.int32(3), budget_bytes=np.int64(1 << 20), timeout_s=np.float32(5)
    )
    with student:
        batches = student.knowledge(size, pass_index=np.int64(0))
        next(batches)
        student.save(path)
        assert type(student.state_dict()["batch_size"]) is int
    with student_of(topic) as student:
        student.load(path)
        assert xs(student.knowledge(4))[0] == [4, 5, 6, 7]
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.json"]


def ragged_file(path: Path) -> Path:
    """Ragged keys of several dtypes, two rows each."""
    with Teacher(
        FileSink(path), ragged_keys=["ids", "mask", "labels", "scores", "bytes"]
    ) as teacher:
        for _ in range(2):
            teacher.write(
                {
                    "ids": [torch.tensor([1, 2]), torch.tensor([3])],
                    "labels": [torch.tensor([4, 5]), torch.tensor([6])],
                    "mask": [torch.tensor([True, True]), torch.tensor([True])],
                    "scores": [torch.tensor([1.0, 2.0]).half(), torch.tensor([3.0]).half()],
                    "bytes": [
                        torch.tensor([7, 8], dtype=torch.uint8),
                        torch.tensor([9], dtype=torch.uint8),
                    ],
                    "dense": torch.zeros(2),
                }
            )
    return path


def padded(path: Path, value: Any, **options: Any) -> dict[str, list[Any]]:
    """The last element of each key's shorter row."""
    student = Student(timeout_s=20, ragged_format=RaggedFormat(pad_value=value, **options))
    student.register_teacher(FileSource(path))
    with student:
        batch = next(student.knowledge(2))
    return {key: batch[key][1].tolist() for key in ("ids", "labels", "mask", "scores", "bytes")}


def test_each_ragged_key_is_padded_with_its_own_value(tmp_path: Path) -> None:
    path = ragged_file(tmp_path / "r.avro")
    found = padded(
        path,
        {
            "labels": -100,
            "scores": -INF,
            "mask": np.bool_(False),
            "ids": np.int64(7),
            "bytes": 255.0,
        },
    )
    assert found == {
        "ids": [3, 7],
        "labels": [6, -100],
        "mask": [True, False],
        "scores": [3, -INF],
        "bytes": [9, 255],
    }
    assert padded(path, {"labels": -100}) == {
        "ids": [3, 0], "labels": [6, -100], "mask": [True, False], "scores": [3, 0], "bytes": [9, 0]
    }  # fmt: skip
    assert padded(path, 1) == {
        "ids": [3, 1],
        "labels": [6, 1],
        "mask": [True, True],
        "scores": [3, 1],
        "bytes": [9, 1],
    }
    assert padded(path, {"labels": 2**63 - 1}, pad_left=True)["labels"] == [2**63 - 1, 6]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (-100, "key 'mask' is bool, which cannot hold the pad value -100"),
        ({"mask": 2}, "key 'mask' is bool"),
        ({"bytes": -100}, "key 'bytes' is uint8, which cannot hold the pad value -100"),
        ({"bytes": 256}, "key 'bytes' is uint8"),
        ({"labels": NAN}, "key 'labels' is int64, which cannot hold the pad value nan"),
        ({"labels": INF}, "key 'labels' is int64"),
        ({"labels": 0.5}, "key 'labels' is int64, which cannot hold the pad value 0.5"),
        ({"labels": 2**63}, "key 'labels' is int64"),
        ({"scores": 70000}, "key 'scores' is float16, which cannot hold the pad value 70000"),
        ({"scores": -1e9}, "key 'scores' is float16"),
        ({"other": 0}, "key 'other', which no teacher has; the ragged keys are"),
        ({"dense": 0}, "key 'dense', which is not ragged"),
    ],
    ids=str,
)
def test_a_pad_value_that_does_not_fit_its_key_is_refused_when_the_streams_open(
    tmp_path: Path, value: Any, message: str
) -> None:
    path = ragged_file(tmp_path / "r.avro")
    student = Student(timeout_s=20, ragged_format=RaggedFormat(pad_value=value))
    student.register_teacher(FileSource(path))
    with student, pytest.raises(MergeError, match=message):
        _ = student.description


@pytest.mark.filterwarnings("ignore:.*support is experimental")
@pytest.mark.parametrize(
    ("dtype", "fits", "unfit"),
    [
        ("float8_e4m3fn", [NAN, 448, -448], [INF, 480, -1e9]),
        ("float8_e5m2", [NAN, INF, -57344], [1e9]),
        ("float8_e8m0fnu", [2.0, NAN], [-1, INF]),
        ("bfloat16", [NAN, -INF, -1e9, 1e38], [1e39]),
        ("float32", [NAN, INF, -100, 3.4e38], [1e39]),
        ("float64", [1e308, NAN, -INF], []),
        ("complex64", [1.5, NAN], [1e39]),
        ("complex128", [-1.5], []),
        ("complex32", [2.0], [70000]),
        ("uint64", [2**64 - 1], [-1, 2**64]),
        ("uint16", [65535], [65536]),
        ("float4_e2m1fn_x2", [0], [1]),
    ],
)
def test_pad_values_of_every_dtype_arrive_or_are_refused(
    dtype: str, fits: list[Any], unfit: list[Any]
) -> None:
    from tutelage.consumers.stages.ragged import padded as fill

    kind = getattr(torch, dtype)
    for value in [0, *fits]:
        RaggedFormat(pad_value=value).refuse_unfit({"r": dtype}, ["r"])
        out = fill(
            torch.zeros(1, dtype=torch.uint8).new_zeros(16).view(kind)[:1],
            torch.tensor([1, 0]),
            value,
            left=False,
        )
        assert (out.shape, out.dtype) == ((2, 1), kind)
        if dtype not in ("float4_e2m1fn_x2", "uint64") and value:
            expected = torch.tensor(value).to(kind).to(torch.complex128)
            assert torch.equal(
                out[1].to(torch.complex128).nan_to_num(7), expected.reshape(1).nan_to_num(7)
            )
        if dtype == "uint64":
            assert out[1].tolist() == [value]
    for value in unfit:
        with pytest.raises(MergeError, match="cannot hold the pad value"):
            RaggedFormat(pad_value=value).refuse_unfit({"r": dtype}, ["r"])


@pytest.mark.parametrize(
    "value",
    [NAN, INF, -INF, {"scores": NAN, "labels": -100}, np.float32(0.5), np.float64(NAN), True],
    ids=str,
)
def test_settings_in_a_checkpoint_are_strict_json_and_load_again(
    tmp_path: Path, value: Any
) -> None:
    with Teacher(FileSink(tmp_path / "r.avro"), ragged_keys=["scores", "labels"]) as teacher:
        for _ in range(3):
            teacher.write(
                {"scores": [torch.tensor([1.0])] * 2, "labels": [torch.tensor([1.0])] * 2}
            )

    def made(pad_value: Any) -> Student:
        student = Student(timeout_s=20, ragged_format=RaggedFormat(pad_value=pad_value))
        student.register_teacher(FileSource(tmp_path / "r.avro"))
        return student

    path = tmp_path / "s.json"
    with made(value) as student:
        batches = student.knowledge(2)
        next(batches)
        student.save(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    with made(value) as student:
        student.load(path)
        assert len(list(student.knowledge(2))) == 2
    with made(0.25) as student:
        student.load(path)
        with pytest.raises(RunMismatch, match="ragged was"):
            student.knowledge(2)


def test_a_save_that_fails_leaves_no_file_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for state in ({"value": NAN}, {"value": object()}):
        with pytest.raises(ConfigurationError, match="not JSON"):
            save_checkpoint(tmp_path / "s.json", state)

    def full(source: Any, target: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(ConfigurationError, match="No space left"):
        save_checkpoint(tmp_path / "s.json", {"version": 2})
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    save_checkpoint(tmp_path / "s.json", {"version": 2})
    assert load_checkpoint(tmp_path / "s.json") == {"version": 2}


@pytest.mark.parametrize(
    "change", [{"batches": 1.5}, {"rows": "4"}, {"pass_index": False}, {"batches": None}], ids=str
)
def test_a_state_whose_counts_are_no_whole_numbers_is_refused(
    topic: MemoryTopic, change: dict[str, Any]
) -> None:
    with student_of(topic) as student:
        batches = student.knowledge(4)
        next(batches)
        state = student.state_dict()
        batches.close()
        student.load_state_dict({**state, **change})
        with pytest.raises(TutelageError):
            student.knowledge(4)


def test_two_topics_in_memory_of_one_name_are_two_and_one_is_not_registered_twice() -> None:
    one, other = MemoryTopic(), MemoryTopic()
    teach(MemorySink(one))
    teach(MemorySink(other))
    with student_of(one, other, merge={"x": "sum", "y": "first"}) as student:
        assert xs(student.knowledge(20)) == [[2 * x for x in range(20)]]
    again = Student()
    again.register_teacher(MemorySource(one))
    with pytest.raises(ConfigurationError, match="registered already"):
        again.register_teacher(MemorySource(one))
