"""Encoded keys do all that dense keys do: files, topics, restarts, devices, resuming, tools."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.encoded import POSITIONS, VOCABULARY, learn, logits_of, same, target_of, topic_of
from support.resume import assert_resumes_anywhere
from support.sampled_rows import read_sampled_row
from torch.utils.data import DataLoader

from tutelage import (
    FileSink,
    FileSource,
    KafkaSink,
    KafkaSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    Projected,
    Ragged,
    Sampled,
    Sink,
    Source,
    SparseTarget,
    Student,
    Teacher,
    TopK,
)
from tutelage.schemas.errors import ConfigurationError, SchemaError, SinkExists
from tutelage.tools import record, replay, verify

ROWS = 23
LOGITS = logits_of(ROWS)
WIRES: Mapping[str, str | Sampled | TopK] = {
    "sampled": Sampled(25),
    "top": TopK(12),
    "small": "int8",
}


def model(rows: torch.Tensor) -> dict[str, Any]:
    logits = LOGITS[rows]
    return {"sampled": logits, "top": logits, "small": logits, "row": rows}


def teach(sink: Sink, batch_size: int = 6, devices: int = 1, **options: Any) -> None:
    options = {"rows_per_record": 4, "name": "t", "run_id": "run", **options}
    with Teacher(sink, wire=WIRES, **options) as teacher:
        teacher.serve(model, torch.arange(ROWS).split(batch_size), devices=["cpu"] * devices)


def learned(source: Source, batch_size: int = 100) -> dict[str, Any]:
    student = Student(timeout_s=30)
    student.register_teacher(source)
    with student:
        batches = list(student.knowledge(batch_size))
    found: dict[str, Any] = {}
    for key in batches[0]:
        values = [batch[key] for batch in batches]
        cat: Callable[[Any], Any] = torch.cat
        found[key] = (SparseTarget.cat if isinstance(values[0], SparseTarget) else cat)(values)
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    topic = MemoryTopic()
    teach(MemorySink(topic))
    return learned(MemorySource(topic))


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        if isinstance(value, SparseTarget):
            assert same(found[key], value), key
        else:
            assert torch.equal(found[key], value), key


def test_what_arrives_is_the_teachers_distribution(expected: dict[str, Any]) -> None:
    p = torch.softmax(LOGITS, -1).reshape(-1, VOCABULARY)
    counts = expected["sampled"].dense() * 25
    assert bool((counts.round() >= torch.floor(25 * p - 1e-4)).all())
    assert bool((counts.round() <= torch.ceil(25 * p + 1e-4)).all())
    top = expected["top"]
    assert bool((top.probabilities() - p[top.owners(), top.ids.long()]).abs().max() < 1e-3)
    assert expected["small"].dtype == LOGITS.dtype
    assert float((expected["small"] - LOGITS).abs().max()) < 0.1


@given(
    batch_size=st.sampled_from([1, 4, 6, 23]),
    devices=st.integers(1, 3),
    partitions=st.sampled_from([1, 3]),
    rows_per_record=st.integers(1, 30),
    read=st.sampled_from([1, 5, 100]),
)
@settings(max_examples=25)
def test_batches_devices_and_records_do_not_change_what_is_drawn(
    expected: dict[str, Any],
    batch_size: int,
    devices: int,
    partitions: int,
    rows_per_record: int,
    read: int,
) -> None:
    topic = MemoryTopic(partitions=partitions)
    teach(MemorySink(topic), batch_size, devices, rows_per_record=rows_per_record)
    assert_equal(learned(MemorySource(topic), read), expected)


def test_batches_that_are_written_by_hand_are_drawn_alike(expected: dict[str, Any]) -> None:
    topic = MemoryTopic()
    with Teacher(
        MemorySink(topic), name="t", wire=WIRES, rows_per_record=5, run_id="run"
    ) as teacher:
        for rows in torch.arange(ROWS).split(7):
            teacher.write(model(rows))
    assert_equal(learned(MemorySource(topic)), expected)


def test_passes_and_runs_are_drawn_anew() -> None:
    topic = MemoryTopic()
    teach(MemorySink(topic), passes=2)
    student = Student()
    student.register_teacher(MemorySource(topic))
    with student:
        first, second = (next(student.knowledge(100, pass_index=index)) for index in range(2))
    assert not same(first["sampled"], second["sampled"])
    assert torch.equal(first["small"], second["small"])
    other = MemoryTopic()
    teach(MemorySink(other), run_id="other")
    assert not same(learned(MemorySource(other))["sampled"], first["sampled"])


@pytest.mark.parametrize("codec", ["null", "zstandard"])
def test_files_hold_the_same(tmp_path: Path, expected: dict[str, Any], codec: Any) -> None:
    teach(FileSink(tmp_path / "t.avro", codec=codec))
    assert_equal(learned(FileSource(tmp_path / "t.avro"), 5), expected)
    assert verify(FileSource(tmp_path / "t.avro")).counts.rows == ROWS


@pytest.mark.kafka
def test_topics_record_and_replay_keep_every_bit(
    tmp_path: Path,
    kafka: dict[str, Any],
    topic_name: Callable[[str], str],
    expected: dict[str, Any],
) -> None:
    topic, again = topic_name("encoded"), topic_name("replayed")
    teach(KafkaSink(topic, partitions=3, **kafka))
    assert_equal(learned(KafkaSource(topic, **kafka), 5), expected)
    record(KafkaSource(topic, **kafka), tmp_path / "t.avro")
    assert_equal(learned(FileSource(tmp_path / "t.avro"), 7), expected)
    replay(tmp_path / "t.avro", KafkaSink(again, partitions=3, **kafka))
    assert_equal(learned(KafkaSource(again, **kafka)), expected)


@pytest.mark.parametrize("keeps_rows", [True, False])
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_teacher_that_starts_again_goes_on_with_the_same_draws(
    tmp_path: Path, keeps_rows: bool, stop: int
) -> None:
    def inputs(end: int | None) -> Iterator[torch.Tensor]:
        for index, rows in enumerate(torch.arange(ROWS).split(6)):
            if index == end:
                raise KeyboardInterrupt
            yield rows

    found = []
    for end in (None, stop):
        path = tmp_path / f"{end}.avro"
        for last in dict.fromkeys((end, None)):
            try:
                with Teacher(
                    FileSink(path), name="t", wire=WIRES, rows_per_record=4, run_id="run"
                ) as one:
                    one.serve(model, inputs(last), keeps_rows=keeps_rows)
            except KeyboardInterrupt:
                continue
        found.append(learned(FileSource(path)))
    assert_equal(found[1], found[0])


def test_a_run_that_was_begun_with_another_encoding_is_not_continued(tmp_path: Path) -> None:
    for wire in ("sampled:25", "sampled:50"):
        teacher = Teacher(FileSink(tmp_path / "t.avro"), wire={"k": wire}, rows_per_record=1)
        if wire == "sampled:25":
            with pytest.raises(KeyboardInterrupt), teacher:
                teacher.write({"k": LOGITS[:2]})
                raise KeyboardInterrupt
        else:
            with pytest.raises(SinkExists, match="travels as sampled:25 there, as sampled:50"):
                teacher.start()


def test_a_student_resumes_at_every_batch() -> None:
    topic = topic_of(LOGITS, "sampled:25")

    def make() -> Student:
        student = Student()
        student.register_teacher(MemorySource(topic))
        return student

    assert_resumes_anywhere(make, 5)


def test_loader_workers_give_every_row_once(tmp_path: Path, expected: dict[str, Any]) -> None:
    teach(FileSink(tmp_path / "t.avro"))
    student = Student()
    student.register_teacher(FileSource(tmp_path / "t.avro"))
    with student:
        loader = DataLoader(student.dataset(5), batch_size=None, num_workers=2)
        batches = sorted(loader, key=lambda batch: int(batch["row"][0]))
    assert same(SparseTarget.cat([batch["sampled"] for batch in batches]), expected["sampled"])


def test_plain_fastavro_and_ten_lines_read_a_sampled_key(
    tmp_path: Path, expected: dict[str, Any]
) -> None:
    teach(FileSink(tmp_path / "t.avro"))
    positions: list[dict[int, int]] = []
    with (tmp_path / "t.avro").open("rb") as file:
        for record_ in fastavro.reader(file):
            assert isinstance(record_, dict)
            tensor, start = record_["k_sampled"], 0
            for length in np.frombuffer(tensor["lengths"], "<i4"):
                positions += read_sampled_row(
                    tensor["data"][start : start + length], vocabulary=VOCABULARY
                )
                start += length
    assert [list(each) for row in expected["sampled"].tolist() for each in row] == [
        [[id_, count] for id_, count in each.items()] for each in positions
    ]


def masked(rows: torch.Tensor) -> dict[str, Any]:
    mask = (torch.arange(POSITIONS) + rows[:, None]) % 3 > 0
    return {"logits": LOGITS[rows], "mask": mask, "row": rows}


@pytest.mark.parametrize("mask", ["mask", lambda knowledge: knowledge["mask"].int()])
@pytest.mark.parametrize("kind", [Sampled, TopK])
def test_positions_outside_the_mask_are_not_sent(mask: Any, kind: Any) -> None:
    whole, part = MemoryTopic(), MemoryTopic()
    for topic, given_mask in ((whole, None), (part, mask)):
        wire = {"logits": kind(12, mask=given_mask)}
        with Teacher(MemorySink(topic), wire=wire, run_id="run") as teacher:
            teacher.serve(masked, torch.arange(ROWS).split(6))
    (all_,), (kept,) = learn([whole], 100), learn([part], 100)
    flags = kept["mask"].reshape(-1)
    assert kept["logits"].lengths.tolist() == kept["mask"].sum(1).tolist()
    assert torch.equal(kept["logits"].dense(), all_["logits"].dense()[flags])
    assert torch.equal(kept["logits.lengths"], kept["logits"].lengths)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("nowhere", "the mask of key 'logits' is key 'nowhere', which the model did not return"),
        ("row", "has rows of 6 elements, and the key rows of 5, 5, 5, ... positions"),
    ],
)
def test_a_mask_that_does_not_fit_is_an_error(mask: str, message: str) -> None:
    wire = {"logits": Sampled(5, mask=mask)}
    with (
        pytest.raises(SchemaError, match=message),
        Teacher(MemorySink(MemoryTopic()), wire=wire) as one,
    ):
        one.serve(masked, torch.arange(ROWS).split(6))


@pytest.mark.parametrize("wire", ["sampled:25", "topk:12", "int8", "float16", None])
@pytest.mark.parametrize("form", ["dense", "ragged", "list"])
def test_logits_may_be_given_as_hidden_states_and_a_head(wire: str | None, form: str) -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(4, POSITIONS, 16, generator=generator)
    weight = torch.randn(VOCABULARY, 16, generator=generator)
    lengths = [5, 2, 0, 3]

    def shaped(values: torch.Tensor) -> Any:
        if form == "dense":
            return values
        rows = [row[:length] for row, length in zip(values, lengths, strict=True)]
        return Ragged(torch.cat(rows).numpy(), np.array(lengths)) if form == "ragged" else rows

    def head(some: torch.Tensor) -> torch.Tensor:
        assert some.ndim == 2
        return some @ weight.T

    found = []
    for value in (shaped(hidden @ weight.T), Projected(shaped(hidden), head, VOCABULARY)):
        topic = MemoryTopic()
        with Teacher(
            MemorySink(topic),
            wire={"k": wire} if wire else "",
            ragged_keys=["k"] * (form != "dense"),
            run_id="run",
        ) as teacher:
            teacher.write({"k": value})
        found.append(learned(MemorySource(topic))["k"])
    if isinstance(found[0], SparseTarget):
        assert found[0].lengths.tolist() == ([5] * 4 if form == "dense" else lengths)
        assert torch.allclose(found[0].dense(), found[1].dense(), atol=0.05)
    else:
        assert torch.allclose(found[0], found[1], atol=1e-2, rtol=1e-2)


def test_a_head_that_gives_other_logits_than_promised_is_an_error() -> None:
    value = Projected(torch.zeros(2, 3, 4), lambda some: some, VOCABULARY)
    with (
        pytest.raises(SchemaError, match=r"gave \[6, 4\] for 6 positions, not .* \[6, 300\]"),
        Teacher(MemorySink(MemoryTopic()), wire={"k": "sampled:5"}) as teacher,
    ):
        teacher.write({"k": value})


@pytest.mark.parametrize("wire", ["sampled:5", "topk:5", "int8"])
def test_logits_that_are_no_numbers_are_an_error_that_names_key_and_batch(wire: str) -> None:
    bad = LOGITS[2:4].clone()
    bad[1, 2, 3] = math.nan
    place = "key 'k' in batch 1 of pass 0, which begins with row 2: a value is NaN"
    with (
        pytest.raises(SchemaError, match=f"{place}.*cannot travel as {wire}"),
        Teacher(MemorySink(MemoryTopic()), wire={"k": wire}) as teacher,
    ):
        teacher.serve(lambda rows: {"k": bad if rows[0] else LOGITS[:2]}, torch.arange(4).split(2))


@pytest.mark.parametrize("wire", ["sampled:25", "topk:12"])
def test_a_teacher_that_changes_its_vocabulary_is_stopped(wire: str) -> None:
    with (
        pytest.raises(SchemaError, match=r"was float32\[5, 300\].* and became float32\[5, 299\]"),
        Teacher(MemorySink(MemoryTopic()), wire={"k": wire}) as teacher,
    ):
        teacher.write({"k": LOGITS[:2]})
        teacher.write({"k": LOGITS[:2, :, :-1]})


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(5, 3),
        torch.ones(15).reshape(1, 15),
        [torch.ones(5), torch.ones(4), torch.ones(6)],
        Ragged(np.ones(15), np.array([4, 5, 6])),
        None,
        torch.ones(3, 5, 1),
    ],
)
def test_a_mask_of_another_shape_is_an_error_and_not_taken_in_another_order(mask: Any) -> None:
    wire = {"logits": Sampled(5, mask=lambda knowledge: mask)}
    with (
        pytest.raises(SchemaError, match="the mask of key 'logits'"),
        Teacher(MemorySink(MemoryTopic()), wire=wire) as teacher,
    ):
        teacher.write({"logits": LOGITS[:3]})


@pytest.mark.parametrize("form", ["tensor", "list", "ragged", "nested", "none"])
def test_masks_of_any_form_keep_the_same_positions(form: str) -> None:
    flags = torch.tensor([[1, 0, 1, 1, 0], [0] * 5, [1] * 5])
    forms: dict[str, Any] = {
        "tensor": flags,
        "list": list(flags),
        "ragged": Ragged(flags.reshape(-1).numpy(), np.array([5, 5, 5])),
        "nested": torch.nested.as_nested_tensor(list(flags), layout=torch.jagged),
        "none": flags.numpy(),
    }
    topic = MemoryTopic()
    wire = {"k": TopK(3, mask=lambda knowledge: forms[form])}
    with Teacher(MemorySink(topic), wire=wire) as teacher:
        teacher.write({"k": LOGITS[:3]})
    assert learned(MemorySource(topic))["k"].lengths.tolist() == [3, 0, 5]


def test_a_run_with_a_mask_is_not_continued_without_it() -> None:
    topic = MemoryTopic()
    wire = {"logits": Sampled(5, mask="mask")}
    with (
        pytest.raises(KeyboardInterrupt),
        Teacher(MemorySink(topic), wire=wire, rows_per_record=2) as first,
    ):
        first.write(masked(torch.arange(6)))
        raise KeyboardInterrupt
    with (
        pytest.raises(SchemaError, match="with a mask or rows of varying length, and is dense"),
        Teacher(MemorySink(topic), wire={"logits": Sampled(5)}, rows_per_record=2) as second,
    ):
        second.write(masked(torch.arange(6)))


def test_logits_with_strides_of_their_own_are_encoded_like_a_copy_of_them() -> None:
    found = []
    for value in (LOGITS[:, :-1, :200], LOGITS[:, :-1, :200].contiguous()):
        topic = MemoryTopic()
        with Teacher(MemorySink(topic), wire={"k": "sampled:25"}, run_id="run") as teacher:
            teacher.write({"k": value})
        found.append(learned(MemorySource(topic))["k"])
    assert same(*found)


def test_two_teachers_of_one_run_id_draw_differently() -> None:
    topics = [topic_of(LOGITS, "sampled:25", name=name) for name in ("a", "b")]
    one, other = (target_of([topic]) for topic in topics)
    assert not same(one, other)


def test_computed_logits_keep_the_dtype_that_the_head_gives() -> None:
    hidden = torch.ones(2, 3, 4, dtype=torch.bfloat16)
    topic = MemoryTopic()
    with Teacher(MemorySink(topic)) as teacher:
        teacher.write({"k": Projected(hidden, lambda some: some.float() + 10.01, 4)})
    assert torch.equal(learned(MemorySource(topic))["k"], hidden.float() + 10.01)


@pytest.mark.parametrize("wire", ["sampled:25", "topk:12", "int8"])
def test_batches_without_rows_are_passed_over(wire: str) -> None:
    topic = MemoryTopic()
    values: list[Any] = [[], LOGITS[:2], [], LOGITS[:0], LOGITS[2:3]]
    with Teacher(MemorySink(topic), wire={"k": wire}) as teacher:
        for value in values:
            teacher.write({"k": value})
    assert len(learned(MemorySource(topic))["k"]) == 3


def test_int8_tensors_that_travel_as_int8_stay_as_they_are() -> None:
    topic = MemoryTopic()
    numbers = torch.arange(-3, 3, dtype=torch.int8)
    with Teacher(MemorySink(topic), wire={"k": "int8"}) as teacher:
        teacher.write({"k": numbers})
    assert torch.equal(learned(MemorySource(topic))["k"], numbers)


@pytest.mark.parametrize(
    ("head", "vocabulary", "message"),
    [(None, 300, "head is a NoneType"), (abs, 0, "vocabulary is 0")],
)
def test_a_projection_without_a_head_or_a_vocabulary_is_an_error(
    head: Any, vocabulary: int, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Projected(LOGITS, head, vocabulary)


def test_an_encoding_without_its_key_says_how_to_name_it() -> None:
    with pytest.raises(
        ConfigurationError, match=r"\{'logits': 'sampled:25'\} \(--wire logits=sampled"
    ):
        Teacher(MemorySink(MemoryTopic()), wire="sampled:25")


def test_the_bytes_of_a_position_are_few() -> None:
    """The format's part of 40 bytes a token; the model's part is measured in the example."""
    topic = MemoryTopic()
    logits = logits_of(64, vocabulary=3000)
    with Teacher(MemorySink(topic), wire={"logits": "sampled:25"}) as teacher:
        teacher.write({"logits": logits})
    student = Student()
    student.register_teacher(MemorySource(topic))
    with student:
        (batch,) = student.knowledge(64)
        stored = student.stream_stats[0].nbytes
    target = batch["logits"]
    entries = target.ids.shape[0] / target.positions
    # A row's length and number of positions, and the record's head.
    assert sum(stored) / target.positions <= 5 + 2 * entries + 8 / POSITIONS + 1


def test_json_of_a_batch_for_people() -> None:
    target = target_of([topic_of(LOGITS[:2], "sampled:5")])
    assert json.loads(json.dumps(target.tolist())) == target.tolist()


@pytest.mark.gpu
def test_a_teacher_on_a_gpu_gives_what_one_on_the_cpu_does(expected: dict[str, Any]) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(LOGITS.clone())

        def forward(self, rows: torch.Tensor) -> dict[str, Any]:
            logits = self.logits[rows]
            return {"sampled": logits, "top": logits, "small": logits, "row": rows}

    topic = MemoryTopic()
    with Teacher(
        MemorySink(topic), name="t", wire=WIRES, rows_per_record=4, run_id="run"
    ) as teacher:
        teacher.serve(Model(), torch.arange(ROWS).split(6), devices=["cuda:0"])
    found = learned(MemorySource(topic))
    assert torch.equal(found["row"], expected["row"])
    assert float((found["small"] - expected["small"]).abs().max()) < 0.2
    difference = (found["sampled"].dense() - expected["sampled"].dense()).abs().sum(-1)
    assert float((difference > 0).float().mean()) < 0.1
