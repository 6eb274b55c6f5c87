"""Divergences over ids that the student chose, and all others as one class."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tutelage import ConfigurationError
from tutelage.losses import (
    Candidates,
    Head,
    Projection,
    draw_candidates,
    forward_kl,
    jsd,
    reverse_kl,
)

Loss = Callable[..., torch.Tensor]
LOSSES = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "jsd": jsd}


def logits_of(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) * 2


def asked(student: torch.Tensor, teacher: torch.Tensor, count: int) -> Candidates:
    """What a teacher says of the student's most probable ids."""
    ids = student.detach().topk(count).indices
    rest = teacher.scatter(-1, ids, -torch.inf)
    total = teacher.logsumexp(-1)
    log_probs = teacher.gather(-1, ids) - total.unsqueeze(-1)
    return Candidates(ids.int(), log_probs, rest.logsumexp(-1) - total)


def classes(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the candidates and of all others together, by brute force."""
    p = logits.softmax(-1)
    found = torch.zeros(*ids.shape[:-1], ids.shape[-1] + 1, dtype=logits.dtype)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in ids.shape[:-1])):
        at = tuple(place.reshape(-1).tolist())
        chosen = ids[at].tolist()
        others = [one for one in range(logits.shape[-1]) if one not in chosen]
        found[at] = torch.stack([*(p[at][one] for one in chosen), p[at][others].sum()])
    return found.log()


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_the_classes(name: str) -> None:
    student, teacher = logits_of(2, 3, 9).requires_grad_(), logits_of(2, 3, 9, seed=1)
    target = asked(student, teacher, 4)
    ids = target.ids.long()
    wanted = LOSSES[name](classes(student, ids), classes(teacher, ids))
    found = LOSSES[name](student, target)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found, student), torch.autograd.grad(wanted, student)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_all_ids_but_one_are_the_full_sum_and_so_are_all(name: str) -> None:
    student, teacher = logits_of(5, 7).requires_grad_(), logits_of(5, 7, seed=1)
    whole = LOSSES[name](student, teacher)
    for count in (6, 7):
        found = LOSSES[name](student, asked(student, teacher, count))
        torch.testing.assert_close(found, whole)
        torch.testing.assert_close(
            torch.autograd.grad(found, student),
            torch.autograd.grad(whole, student, retain_graph=True),
        )


@given(st.integers(0, 10_000), st.integers(1, 8), st.sampled_from(sorted(LOSSES)))
def test_it_is_at_most_the_full_sum_and_not_below_zero(seed: int, count: int, name: str) -> None:
    student, teacher = logits_of(3, 9, seed=seed), logits_of(3, 9, seed=seed + 1)
    whole = LOSSES[name](student, teacher, reduction="none")
    found = LOSSES[name](student, asked(student, teacher, count), reduction="none")
    assert bool((found >= -1e-12).all()) and bool((found <= whole + 1e-12).all())


@pytest.mark.parametrize("gap", [50.0, 200.0, 5_000.0])
def test_other_ids_count_however_little_probability_they_have(gap: float) -> None:
    student = torch.tensor([[gap, 0.0, -1.0, -2.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    # The other three ids are one class, so this is a divergence between two classes.
    ours = torch.stack([torch.tensor(0.0), student.detach()[0, 1:].logsumexp(0) - gap])
    theirs = torch.stack([teacher[0, 0], teacher[0, 1:].logsumexp(0)]).log_softmax(-1)
    found = forward_kl(student, asked(student, teacher, 1))
    torch.testing.assert_close(found, (theirs.exp() * (theirs - ours)).sum())
    (slopes,) = torch.autograd.grad(found, student)
    rest = theirs[1].exp()
    torch.testing.assert_close(slopes[0, 1:], -rest * student.detach()[0, 1:].softmax(0))


def test_more_candidates_come_nearer_to_the_full_sum() -> None:
    student, teacher = logits_of(200, 50), logits_of(200, 50, seed=1)
    values = [
        float(reverse_kl(student, asked(student, teacher, count))) for count in (1, 4, 16, 49)
    ]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(float(reverse_kl(student, teacher)))
    assert values[0] < 0.7 * values[-1] < values[2]


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = logits_of(3, 6).requires_grad_(), logits_of(3, 6, seed=1)
    target = asked(student, teacher, 3)
    for loss in LOSSES.values():
        assert torch.autograd.gradcheck(lambda logits, loss=loss: loss(logits, target), student)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_in_chunks_and_of_hidden_states_it_is_the_same(name: str, reduction: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    hidden = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(13, 6, generator=generator, dtype=torch.float64).requires_grad_()
    head = Head(weight=weight)
    target = asked(head.logits(hidden), logits_of(2, 5, 13, seed=1), 4)
    mask = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 1, 0, 1]])
    for kept in (None, mask):
        plain = LOSSES[name](head.logits(hidden), target, mask=kept, reduction=reduction)
        found = LOSSES[name](
            Projection(hidden, head), target, mask=kept, reduction=reduction, chunk_positions=3
        )
        torch.testing.assert_close(found, plain)
        torch.testing.assert_close(
            torch.autograd.grad(found.sum(), (hidden, weight)),
            torch.autograd.grad(plain.sum(), (hidden, weight)),
        )


def test_a_mask_takes_positions_of_all_or_is_that_of_the_target() -> None:
    student, teacher = logits_of(2, 4, 9), logits_of(2, 4, 9, seed=1)
    target = asked(student, teacher, 3)
    mask = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1]])
    kept = mask.flatten().nonzero()[:, 0]
    each = reverse_kl(student, target, reduction="none")
    torch.testing.assert_close(reverse_kl(student, target, mask=mask), each[kept].mean())
    few = target.take(kept)
    assert few.shape == (4, 3)
    torch.testing.assert_close(reverse_kl(student, few, mask=mask), each[kept].mean())
    # What a position that does not count has may be anything.
    ids = target.ids.masked_fill(mask[..., None] == 0, 0)
    padded = Candidates(ids, target.log_probs, target.tail)
    torch.testing.assert_close(reverse_kl(student, padded, mask=mask), each[kept].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_others_with_almost_nothing_keep_their_gradient(dtype: torch.dtype) -> None:
    student = torch.tensor([[30.0, 0.0, 0.0, 0.0]], dtype=dtype).requires_grad_()
    teacher = torch.tensor([[0.0, 9.0, 0.0, 0.0]])
    loss = reverse_kl(student, asked(student, teacher, 1))
    (slope,) = torch.autograd.grad(loss, student)
    assert bool(slope.isfinite().all()) and float(loss.detach()) == pytest.approx(9.0, rel=0.01)


def test_excluded_ids_make_no_nan() -> None:
    student = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]]).requires_grad_()
    target = Candidates(
        torch.tensor([[0, 1]]), torch.tensor([[0.0, -torch.inf]]), torch.tensor([-torch.inf])
    )
    for loss in LOSSES.values():
        value = loss(student, target)
        (slope,) = torch.autograd.grad(value, student)
        assert bool(value.isfinite()) and bool(slope.isfinite().all())


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = logits_of(3, 6).requires_grad_(), logits_of(3, 6, seed=1).requires_grad_()
    target = asked(student, teacher, 3)
    assert target.tail is not None
    kept = Candidates(target.ids, target.log_probs.detach(), target.tail.detach())
    for loss in LOSSES.values():
        torch.autograd.backward(loss(student, target))
        assert teacher.grad is None
        torch.testing.assert_close(loss(student, target), loss(student, kept))


def made(**changes: Any) -> Candidates:
    given: dict[str, Any] = {
        "ids": torch.tensor([[0, 1], [2, 3]]),
        "log_probs": torch.full((2, 2), -1.0),
        "tail": torch.full((2,), -1.0),
    }
    return Candidates(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": torch.zeros(2, 2)}, "candidates are torch.float32"),
        ({"ids": torch.zeros(2, 2, dtype=torch.bool)}, "candidates are torch.bool"),
        ({"ids": torch.tensor([0, 1])}, r"candidates are torch.int64 \[2\]"),
        ({"ids": torch.zeros(2, 0, dtype=torch.int64)}, r"\[2, 0\]"),
        ({"log_probs": torch.zeros(2, 3)}, r"log_probs is torch.float32 \[2, 3\]"),
        ({"log_probs": torch.zeros(2, 2, dtype=torch.int64)}, "log_probs is torch.int64"),
        ({"tail": torch.zeros(2, 1)}, r"tail is torch.float32 \[2, 1\]"),
        ({"tail": torch.zeros(2, device="meta")}, "tail on meta"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        made(**changes)


@pytest.mark.parametrize("name", LOSSES)
def test_ids_that_cannot_be_are_refused(name: str) -> None:
    loss, student = LOSSES[name], torch.zeros(2, 4)
    with pytest.raises(ConfigurationError, match="the same candidate twice"):
        loss(student, made(ids=torch.tensor([[0, 0], [2, 3]])))
    for ids in ([[0, 4], [1, 2]], [[0, -1], [1, 2]]):
        with pytest.raises(ConfigurationError, match="in the student's vocabulary"):
            loss(student, made(ids=torch.tensor(ids)))
    with pytest.raises(ConfigurationError, match="made at 1"):
        loss(student, made(), temperature=2.0)
    assert bool(loss(student, made(), temperature=1.0).isfinite())
    with pytest.raises(ConfigurationError, match="names no tokenizer"):
        loss(student, made(), tokenizer="other")
    with pytest.raises(ConfigurationError, match="without a mask they must be the same"):
        loss(torch.zeros(3, 4), made())


def test_it_says_what_it_is() -> None:
    assert repr(made()) == "Candidates(2 ids at each of [2] positions)"
    assert made().to("cpu").device == torch.device("cpu")


@given(st.integers(0, 10_000), st.integers(1, 40), st.floats(0.1, 30))
def test_an_id_is_drawn_as_often_as_its_probability_says(
    seed: int, draws: int, heat: float
) -> None:
    logits = logits_of(3, 11, seed=seed) * heat
    ids, log_probs = draw_candidates(logits, draws, generator=torch.Generator().manual_seed(seed))
    assert ids.dtype == torch.int32 and ids.shape == log_probs.shape == (3, draws)
    p = logits.softmax(-1)
    counts = torch.zeros_like(p).scatter_add_(-1, ids.long(), torch.ones(3, draws).double())
    assert bool((counts >= (draws * p).floor() - 1e-6).all())
    assert (
        bool((counts <= (draws * p).ceil() + 1e-6).all()) or float((draws * p).frac().min()) < 1e-6
    )
    torch.testing.assert_close(log_probs, p.log().gather(-1, ids.long()).float())


@pytest.mark.parametrize("moved", [0.0, 0.7])
def test_drawn_ids_estimate_the_full_divergence_and_its_gradient(moved: float) -> None:
    """Also where the student has changed since it drew them."""
    drew, teacher = logits_of(1, 12), logits_of(1, 12, seed=1)
    student = (drew + moved * logits_of(1, 12, seed=2)).requires_grad_()
    whole = reverse_kl(student, teacher)
    (gradient,) = torch.autograd.grad(whole, student)
    many = 40_000
    ids, drawn = draw_candidates(
        drew.expand(many, 12), 3, generator=torch.Generator().manual_seed(0)
    )
    log_probs = teacher.log_softmax(-1).expand(many, 12).gather(-1, ids.long())
    same = student.expand(many, 12)
    found = reverse_kl(same, Candidates(ids, log_probs, drawn=drawn), reduction="none")
    error, spread = (found.mean() - whole).detach(), found.detach().std()
    assert abs(float(error)) < 5 * float(spread) / many**0.5
    (estimate,) = torch.autograd.grad(found.mean(), student)
    torch.testing.assert_close(estimate, gradient, rtol=0, atol=0.02)


def test_as_many_draws_as_there_are_leave_no_noise() -> None:
    drew, teacher = torch.zeros(1, 8, dtype=torch.float64), logits_of(1, 8, seed=1)
    student = drew.clone().requires_grad_()
    ids, drawn = draw_candidates(drew, 8)
    target = Candidates(ids, teacher.log_softmax(-1).gather(-1, ids.long()), drawn=drawn.double())
    whole, found = reverse_kl(student, teacher), reverse_kl(student, target)
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6)
    for one, other in zip(
        torch.autograd.grad(found, student), torch.autograd.grad(whole, student), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_drawn_ids_go_through_masks_and_chunks() -> None:
    student, teacher = logits_of(2, 5, 9).requires_grad_(), logits_of(2, 5, 9, seed=1)
    ids, drawn = draw_candidates(student, 4)
    target = Candidates(ids, teacher.log_softmax(-1).gather(-1, ids.long()), drawn=drawn)
    mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 1]])
    whole = reverse_kl(student, target, mask=mask)
    parts = reverse_kl(student, target, mask=mask, chunk_positions=2)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(
        torch.autograd.grad(parts, student), torch.autograd.grad(whole, student)
    )
    assert "drawn ids" in repr(target)


def test_drawn_ids_are_for_the_reverse_divergence_alone() -> None:
    student = logits_of(2, 9)
    ids, drawn = draw_candidates(student, 4)
    target = Candidates(ids, drawn, drawn=drawn)
    for loss in (forward_kl, jsd):
        with pytest.raises(ConfigurationError, match="use reverse_kl"):
            loss(student, target)
    with pytest.raises(ConfigurationError, match="give one of them"):
        Candidates(ids, drawn)
    with pytest.raises(ConfigurationError, match="give one of them"):
        Candidates(ids, drawn, drawn[..., 0], drawn)
    with pytest.raises(ConfigurationError, match=r"drawn is torch.float32 \[2, 3\]"):
        Candidates(ids, drawn, drawn=drawn[:, :3])
    with pytest.raises(ConfigurationError, match="logits are"):
        draw_candidates(torch.zeros(3), 2)
    with pytest.raises(ConfigurationError, match="draws"):
        draw_candidates(student, 0)


def test_teachers_that_exclude_an_id_cost_much_but_not_infinity() -> None:
    student = torch.zeros(1, 4, requires_grad=True)
    ids, drawn = draw_candidates(student, 4)
    target = Candidates(ids, torch.tensor([[-1.0, -1.0, -1.0, -torch.inf]]), drawn=drawn)
    loss = reverse_kl(student, target)
    torch.autograd.backward(loss)
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()
