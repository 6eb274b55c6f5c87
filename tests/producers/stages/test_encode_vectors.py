"""What a model may give for an encoded key: masks, hidden states, strides, no rows; and what it may not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from support.encoded import (
    POSITIONS,
    VOCABULARY,
    learn,
    learned,
    logits_of,
    same,
)

from tutelage import (
    MemorySink,
    MemorySource,
    MemoryTopic,
    Projected,
    Ragged,
    Sampled,
    SparseTarget,
    Teacher,
    TopK,
)
from tutelage.schemas.errors import ConfigurationError, SchemaError

ROWS = 23
LOGITS = logits_of(ROWS)


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
