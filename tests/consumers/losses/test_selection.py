"""Which of the student's positions are compared with which of the target's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.targets import sampled, top_k

from tutelage import ConfigurationError
from tutelage.consumers.sparse_target import SparseTarget
from tutelage.losses import Head, Projection, forward_kl, jsd, reverse_kl

V = 7


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, V, generator=torch.Generator().manual_seed(seed))


def each(
    student: torch.Tensor, target: torch.Tensor | SparseTarget, **options: object
) -> torch.Tensor:
    return forward_kl(student, target, reduction="none", **options)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.booleans())
def test_ragged_rows_lie_on_the_side_that_the_target_says(
    lengths: list[int], pad_left: bool
) -> None:
    width = max(1, *lengths)
    student = logits(len(lengths), width)
    teacher = logits(sum(lengths), seed=1)
    places = [range(width - n, width) if pad_left else range(n) for n in lengths]
    rows = [student[row, list(place)] for row, place in enumerate(places)]
    for make in (sampled, lambda *args, **more: top_k(args[0], 3, **more)):
        target = make(teacher, lengths=lengths, pad_left=pad_left)
        torch.testing.assert_close(each(student, target), each(torch.cat(rows), target))


@given(st.integers(1, 4), st.integers(1, 5), st.randoms(use_true_random=False))
def test_a_mask_takes_all_positions_or_exactly_its_own(
    rows: int, width: int, random: object
) -> None:
    generator = torch.Generator().manual_seed(random.randrange(1_000))  # type: ignore[attr-defined]
    mask = torch.rand(rows, width, generator=generator) < 0.6
    student, teacher = logits(rows, width), logits(rows, width, seed=1)
    expected = each(student[mask], teacher[mask])
    torch.testing.assert_close(each(student, teacher, mask=mask), expected)
    torch.testing.assert_close(each(student, teacher[mask], mask=mask.long() * 3), expected)
    for make in (sampled, lambda *args, **more: top_k(args[0], 3, **more)):
        whole = make(teacher)
        exactly = make(teacher[mask], lengths=mask.sum(1).tolist())
        assert whole.shape == (width,) and exactly.shape == (-1,)
        own = make(teacher[mask])
        torch.testing.assert_close(each(student, exactly, mask=mask), each(student[mask], own))
        dense = whole.dense().view(rows, width, V)[mask]
        found = forward_kl(student, whole, mask=mask, reduction="sum", tail="ignore")
        chosen = student[mask].log_softmax(-1)
        constant = torch.special.xlogy(dense, dense).sum()
        if whole.is_sampled:
            assert whole.entropy is not None
            constant = -whole.entropy.view(rows, width)[mask].sum()
        torch.testing.assert_close(found, constant - (dense * chosen).sum(), atol=1e-5, rtol=1e-5)


def test_positions_without_rows_have_a_mask_of_positions() -> None:
    mask = torch.tensor([1, 0, 1, 1, 0])
    student, teacher = logits(5), logits(5, seed=1)
    target = top_k(teacher, 3, lengths=[2, 3])
    expected = each(student[mask != 0], top_k(teacher[mask != 0], 3))
    torch.testing.assert_close(each(student, target, mask=mask), expected)
    exactly = top_k(teacher[mask != 0], 3)
    torch.testing.assert_close(each(student, exactly, mask=mask), expected)
    with pytest.raises(ConfigurationError, match="keeps 3 of 5 positions, but the target has 4"):
        each(student, top_k(teacher[:4], 3), mask=mask)


def test_keys_of_any_number_of_dimensions_are_positions() -> None:
    teacher = logits(2, 3, 2, seed=1)
    target = sampled(teacher)
    assert target.shape == (3, 2)
    expected = each(logits(12), sampled(teacher.view(12, V)))
    torch.testing.assert_close(each(logits(12).view(2, 3, 2, V), target), expected)
    one = logits(4, seed=1)
    torch.testing.assert_close(
        each(logits(4), sampled(one)), each(logits(4)[:, None], sampled(one[:, None]))
    )


def test_rows_of_equal_length_are_not_copied() -> None:
    from tutelage.consumers.losses.selection import select_dense, select_sparse

    target = sampled(logits(2, 3))
    assert select_sparse((2, 3), target, None) == (None, None)
    assert select_sparse((2, 3), sampled(logits(6), lengths=[3, 3]), None) == (None, None)
    assert select_dense((2, 3), (2, 3), None) == (None, None)


REFUSED: dict[str, tuple[Any, Any, Any, str]] = {
    "rows": ((3, 4), sampled(logits(2, 4)), None, "logits for 3 rows, the target has 2"),
    "positions": ((7,), sampled(logits(2, 4)), None, "logits at 7 positions, the target at 8"),
    "another T": ((2, 5), sampled(logits(2, 4)), None, r"\[5\] positions a row, the target \[4\]"),
    "a long row": (
        (2, 3),
        sampled(logits(5), lengths=[1, 4]),
        None,
        r"row 1 of the target, the longest, has 4 positions, but the student's rows have 3",
    ),
    # The first positions of a row need not be those that the teacher kept.
    "a mask that was forgotten": (
        (2, 6),
        sampled(logits(5), lengths=[1, 4]),
        None,
        "If the teacher left out positions, give the mask of those that it kept",
    ),
    "uneven rows": (
        (2, 3),
        sampled(logits(6), lengths=[2, 4]),
        None,
        "row 1 of the target, the longest, has 4 positions",
    ),
    "mask": ((2, 4), sampled(logits(2, 4)), (2, 3), r"the mask has the shape \[2, 3\]"),
    "mask of a dense target": ((2, 4), logits(2, 4), (4,), r"the mask has the shape \[4\]"),
    "dense shape": ((2, 4), logits(8), None, r"at \[2, 4\] positions, the target at \[8\]"),
    "dense shape with a mask": ((2, 4), logits(2, 3), (2, 4), r"the target at \[2, 3\]"),
    "dense positions": ((2, 4), logits(7), (2, 4), "keeps 8 positions, but the target has 7"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_together_is_refused(name: str) -> None:
    shape, target, mask, message = REFUSED[name]
    kept = None if mask is None else torch.ones(mask)
    with pytest.raises(ConfigurationError, match=message):
        forward_kl(logits(*shape), target, mask=kept)


def test_the_first_row_that_differs_from_the_mask_is_named() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    target = sampled(logits(6), lengths=[2, 3, 1])
    message = (
        "row 1 of the target has 3 positions, but the mask keeps 1; .*exactly those of the mask"
    )
    with pytest.raises(ConfigurationError, match=message):
        forward_kl(logits(3, 3), target, mask=mask)


def test_vocabularies_must_be_the_same() -> None:
    head = Head(weight=torch.ones(V, 2))
    targets: list[Any] = [logits(4), sampled(logits(4)), Projection(torch.zeros(4, 2), head)]
    for target in targets:
        with pytest.raises(
            ConfigurationError, match=r"has 9 ids, the target's 7: .*logits\[\.\.\., :7\]"
        ):
            forward_kl(torch.zeros(4, 9), target)
        with pytest.raises(
            ConfigurationError, match="has 5 ids, the target's 7: .*tokenizers differ"
        ):
            forward_kl(torch.zeros(4, 5), target)


@pytest.mark.parametrize("wrong", [-1, V])
def test_ids_outside_the_vocabulary_are_refused(wrong: int) -> None:
    from dataclasses import replace

    target = sampled(logits(4))
    ids = target.ids.clone()
    ids[2] = wrong
    with pytest.raises(ConfigurationError, match="has ids from .* they are from 0 to 6"):
        forward_kl(logits(4), replace(target, ids=ids))
    with pytest.raises(ConfigurationError, match="entries together, but there are"):
        forward_kl(logits(4), replace(target, entries=target.entries + 1))


def test_tokenizers_are_compared_where_asked() -> None:
    target = sampled(logits(4), tokenizer="gpt2-1234")
    forward_kl(logits(4), target)
    forward_kl(logits(4), target, tokenizer="gpt2-1234")
    with pytest.raises(ConfigurationError, match="'gpt2-1234', the student has 'llama'"):
        forward_kl(logits(4), target, tokenizer="llama")
    for silent in (sampled(logits(4)), logits(4)):
        with pytest.raises(ConfigurationError, match="names no tokenizer"):
            forward_kl(logits(4), silent, tokenizer="llama")


def test_a_target_of_another_temperature_is_refused() -> None:
    target = sampled(logits(4), temperature=2.0)
    torch.testing.assert_close(
        forward_kl(logits(4), target), forward_kl(logits(4), target, temperature=2)
    )
    message = "temperature is 1, but the target was made at 2: counts .* cannot be re-tempered"
    with pytest.raises(ConfigurationError, match=message):
        forward_kl(logits(4), target, temperature=1.0)
    with pytest.raises(ConfigurationError, match="of all others are not known"):
        forward_kl(logits(4), top_k(logits(4), 2), temperature=3.0)


def test_a_support_that_the_teacher_chose_is_refused_where_the_student_s_mass_counts() -> None:
    for loss in (reverse_kl, jsd):
        with pytest.raises(
            ConfigurationError, match="where the STUDENT has mass.*forward_kl.*Projection"
        ):
            loss(logits(4), sampled(logits(4)))  # type: ignore[arg-type]


def test_wrong_arguments_are_errors_at_the_call() -> None:
    a, b = logits(4), logits(4, seed=1)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"reduction": "batchmean"}, "reduction is 'batchmean'"),
        ({"temperature": 0}, "temperature is 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"tail": "drop"}, "tail is 'drop'"),
        ({"chunk_positions": 0}, "chunk_positions is 0"),
    ]
    for options, message in wrong:
        with pytest.raises(ConfigurationError, match=message):
            forward_kl(a, b, **options)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="beta is 1.5"):
        jsd(a, b, beta=1.5)
    with pytest.raises(ConfigurationError, match="student's logits are torch.int64"):
        forward_kl(a.long(), b)
    with pytest.raises(ConfigurationError, match="target is dict; give"):
        forward_kl(a, {"logits": b})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="student's logits are list"):
        forward_kl([a], b)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="target are torch.float32 \\[7\\]"):
        forward_kl(a, b[0])


def test_a_target_on_another_device_is_refused() -> None:
    with pytest.raises(
        ConfigurationError, match=r"student is on cpu, the target on meta; .*to\('cpu'\)"
    ):
        forward_kl(logits(4), sampled(logits(4)).to("meta"))
