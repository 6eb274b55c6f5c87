"""Arguments of a teacher of a wrong kind are refused at the call; numbers of numpy and torch are numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.teaching import read

from tutelage import Lesson, MemorySink, MemoryTopic, Teacher, from_sample_lists, from_samples
from tutelage.producers.stages.inputs import Inputs
from tutelage.schemas.errors import ConfigurationError

NO_COUNTS: list[Any] = [True, 4.0, "4", math.nan, 0, -1, [4], 2**31]
NO_TEXTS: list[Any] = [3, b"a", ["a"], True]

CONSTRUCTOR: list[tuple[str, Any]] = [
    *[(name, value) for name in ("passes", "rows_per_record") for value in NO_COUNTS],
    ("passes", None),
    *[
        (name, value)
        for name in ("name", "revision", "inputs_fingerprint", "run_id")
        for value in NO_TEXTS
    ],
    ("name", ""),
    ("run_id", ""),
    ("revision", None),
    ("inputs_fingerprint", None),
    ("wire", None),
    ("wire", "float12"),
    ("wire", "int8"),
    ("wire", ["float16"]),
    ("wire", {"x": "float12"}),
    ("wire", {"x": None}),
    ("wire", {3: "float16"}),
    ("ragged_keys", "logits"),
    ("ragged_keys", b"logits"),
    ("ragged_keys", None),
    ("ragged_keys", [3]),
    ("ragged_keys", {"x": True}),
]


@pytest.mark.parametrize(("name", "value"), CONSTRUCTOR)
def test_a_wrong_argument_of_a_teacher_is_refused_by_name(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        Teacher(MemorySink(MemoryTopic()), **arguments)


def test_a_sink_is_a_sink() -> None:
    for sink in ("a.avro", None, MemoryTopic()):
        with pytest.raises(ConfigurationError, match="sink is a"):
            Teacher(sink)  # type: ignore[arg-type]


SERVE: list[tuple[str, Any]] = [
    *[("batch_size", value) for value in NO_COUNTS],
    *[("threads", value) for value in (*NO_COUNTS, 257)],
    *[("timeout_s", value) for value in (0, -1, math.nan, math.inf, "1", None, True)],
    *[("keeps_rows", value) for value in (1, "yes")],
    *[("read_ahead", value) for value in (1, None)],
    *[
        ("devices", value)
        for value in ("cpu", 3, [None], ["nonsense"], [True], torch.device("cpu"), {"cpu"})
    ],
    ("progress", 3),
    ("progress", None),
]


@pytest.mark.parametrize(("name", "value"), SERVE)
def test_a_wrong_argument_of_serve_is_refused_by_name_before_anything_is_written(
    name: str, value: Any
) -> None:
    topic = MemoryTopic()
    arguments: dict[str, Any] = {"batch_size": 2, name: value}
    with Teacher(MemorySink(topic)) as teacher, pytest.raises(ConfigurationError, match=name):
        teacher.serve(lambda x: {"x": x}, torch.arange(4), **arguments)
    assert not any(topic.logs)


@pytest.mark.parametrize("model", [None, 3, [], [3], "model"])
def test_a_model_is_called(model: Any) -> None:
    with (
        Teacher(MemorySink(MemoryTopic())) as teacher,
        pytest.raises(ConfigurationError, match="model is"),
    ):
        teacher.serve(model, torch.arange(4), batch_size=2)


@pytest.mark.parametrize("inputs", ["text", b"bytes", 3, None, torch.tensor(3), np.array(3)])
def test_inputs_are_batches(inputs: Any) -> None:
    sized = isinstance(inputs, (torch.Tensor, np.ndarray))
    with pytest.raises(ConfigurationError, match="inputs is a"):
        Inputs(inputs, batch_size=2 if sized else None)


def test_a_function_of_inputs_that_returns_no_batches_is_named() -> None:
    with (
        Teacher(MemorySink(MemoryTopic())) as teacher,
        pytest.raises(ConfigurationError, match="function that returned a NoneType"),
    ):
        teacher.serve(lambda x: {"x": x}, lambda: None)


def test_integers_of_numpy_and_torch_are_integers() -> None:
    for number in (np.int64(2), np.uint8(2), torch.tensor(2)):
        topic = MemoryTopic()
        numbers: dict[str, Any] = {"passes": number, "rows_per_record": number}
        with Teacher(
            MemorySink(topic), **numbers, wire={"x": "int64"}, ragged_keys=iter(())
        ) as teacher:
            teacher.serve(
                lambda x: {"x": x},
                torch.arange(4),
                batch_size=number,  # type: ignore[arg-type]
                threads=number,  # type: ignore[arg-type]
                timeout_s=np.float32(60),  # type: ignore[arg-type]
            )
        assert read(topic, passes=2) == [*range(4)] * 2


@pytest.mark.parametrize("size", NO_COUNTS)
def test_samples_are_collated_in_whole_numbers(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="batch_size"):
        from_samples(lambda: range(3), size)


def test_functions_of_samples_are_functions() -> None:
    for wrong in ([1, 2], None):
        with pytest.raises(ConfigurationError, match="give a function"):
            from_samples(wrong, 2)  # type: ignore[arg-type]
        with pytest.raises(ConfigurationError, match="give a function"):
            from_sample_lists(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="drop_last"):
        from_samples(lambda: range(3), 2, drop_last=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", [-1, math.nan, math.inf, "1", None, True])
def test_a_wrong_timeout_of_recv_is_refused(timeout_s: Any) -> None:
    with (
        Teacher(MemorySink(MemoryTopic())) as teacher,
        pytest.raises(ConfigurationError, match="timeout_s"),
    ):
        teacher.recv(timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", True), ("passes", 1.0), ("rows_per_record", 0), ("devices", "cpu"), ("name", 3), ("revision", None),
        ("inputs_fingerprint", 3), ("wire", "float12"), ("ragged_keys", "logits"),
    ],
)  # fmt: skip
def test_a_wrong_argument_of_a_lesson_is_refused_by_name(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {name: value}
    with pytest.raises(ConfigurationError, match=name):
        Lesson(model=lambda x: x, inputs=[1], **arguments)
