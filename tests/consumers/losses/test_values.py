"""The losses' values and gradients against brute force."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.targets import sampled, top_k

from tutelage.losses import forward_kl, jsd, reverse_kl


def pair(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of a student, which learns, and of a teacher."""
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(*shape, generator=generator).to(dtype) * 2
    teacher = torch.randn(*shape, generator=generator).to(dtype) * 3
    return student.requires_grad_(), teacher


def slope(loss: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    (found,) = torch.autograd.grad(loss, student)
    return found


def test_forward_kl_is_the_sum_over_all_ids() -> None:
    student, teacher = pair(5, 7)
    t, p = teacher.softmax(-1), student.softmax(-1)
    expected = (t * (t / p).log()).sum(-1)
    torch.testing.assert_close(forward_kl(student, teacher, reduction="none"), expected)
    torch.testing.assert_close(forward_kl(student, teacher), expected.mean())
    torch.testing.assert_close(forward_kl(student, teacher, reduction="sum"), expected.sum())
    torch.testing.assert_close(slope(forward_kl(student, teacher), student), (p - t) / 5)


def test_reverse_kl_is_forward_kl_the_other_way() -> None:
    student, teacher = pair(5, 7)
    expected = forward_kl(teacher, student.detach(), reduction="none")
    torch.testing.assert_close(reverse_kl(student, teacher, reduction="none"), expected)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jsd_is_measured_against_the_mixture(beta: float) -> None:
    student, teacher = pair(5, 7)
    t, p = teacher.softmax(-1), student.softmax(-1)
    m = beta * t + (1 - beta) * p
    expected = beta * (t * (t / m).log()).sum(-1) + (1 - beta) * (p * (p / m).log()).sum(-1)
    torch.testing.assert_close(jsd(student, teacher, beta=beta, reduction="none"), expected)
    assert float(jsd(student, teacher).detach()) <= math.log(2)


def test_jsd_ends_in_forward_and_reverse_kl() -> None:
    student, teacher = pair(5, 7, dtype=torch.float64)
    teacher = teacher / 3
    for beta, whole in ((0.0, forward_kl(student, teacher)), (1.0, reverse_kl(student, teacher))):
        torch.testing.assert_close(jsd(student, teacher, beta=beta), whole)
        near = abs(beta - 1e-8)
        close = jsd(student, teacher, beta=near) / min(near, 1 - near)
        torch.testing.assert_close(
            slope(close, student), slope(whole, student), rtol=1e-3, atol=1e-5
        )


def test_the_temperature_divides_both_and_the_value_is_not_scaled() -> None:
    student, teacher = pair(5, 7)
    for loss in (forward_kl, reverse_kl, jsd):
        torch.testing.assert_close(
            loss(student, teacher, temperature=2.5), loss(student / 2.5, teacher / 2.5)
        )


def test_gradients_are_those_of_finite_differences() -> None:
    student, teacher = pair(3, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: forward_kl(x, teacher, reduction="none"), student)
    assert torch.autograd.gradcheck(lambda x: reverse_kl(x, teacher, reduction="none"), student)
    assert torch.autograd.gradcheck(lambda x: jsd(x, teacher, beta=0.3, reduction="none"), student)
    target = sampled(teacher)
    assert torch.autograd.gradcheck(lambda x: forward_kl(x, target, reduction="none"), student)
    few = top_k(teacher, 2)
    for tail in ("ghost", "ignore"):
        assert torch.autograd.gradcheck(lambda x, tail=tail: forward_kl(x, few, tail=tail), student)


def test_the_sampled_gradient_is_in_the_mean_that_of_the_full_sum() -> None:
    times, draws = 4_000, 5
    student, teacher = pair(4, 12)
    teacher = teacher / 3
    full = slope(forward_kl(student, teacher, reduction="sum"), student)
    value = forward_kl(student, teacher, reduction="none").detach()
    repeated = student.detach().repeat(times, 1).requires_grad_()
    losses = forward_kl(repeated, sampled(teacher.repeat(times, 1), draws=draws), reduction="none")
    slopes = slope(losses.sum(), repeated).view(times, 4, 12)
    # The gradient is p - c / N, and the counts c are binomial.
    t = teacher.softmax(-1)
    error = (t * (1 - t) / draws / times).sqrt()
    # Of 48 numbers the largest deviation is below 4 standard errors 997 times in 1,000.
    assert ((slopes.mean(0) - full).abs() <= 4 * error + 1e-6).all()
    # Targets that are scaled up by 5 % would have been seen.
    assert (4 * error < 0.05 * t).any()
    values = losses.detach().view(times, 4)
    assert ((values.mean(0) - value).abs() <= 4 * values.std(0) / math.sqrt(times)).all()


def test_the_sampled_value_is_the_cross_entropy_less_the_stored_entropy() -> None:
    student, teacher = pair(6, 9)
    target = sampled(teacher, draws=7)
    expected = -(target.dense() * student.log_softmax(-1)).sum(-1)
    entropy = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1)
    found = forward_kl(student, target, reduction="none")
    torch.testing.assert_close(found, expected - entropy)


def test_top_k_of_all_ids_is_the_full_sum() -> None:
    student, teacher = pair(5, 7)
    for tail in ("ghost", "ignore"):
        found = forward_kl(student, top_k(teacher, 7), tail=tail)
        expected = forward_kl(student, teacher)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(slope(found, student), slope(expected, student))


@given(st.integers(1, 6), st.integers(1, 9), st.data(), st.floats(0.5, 3))
def test_the_ghost_is_one_class_of_all_others(
    positions: int, vocabulary: int, data: st.DataObject, temperature: float
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    student, teacher = pair(positions, vocabulary, seed=positions, dtype=torch.float64)
    target = top_k(teacher, k, temperature=temperature)
    t, p = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    ids = target.ids.long().view(positions, k)
    expected, ignored = torch.zeros(()), torch.zeros(())
    for row in range(positions):
        chosen = ids[row]
        others = torch.tensor([each for each in range(vocabulary) if each not in chosen.tolist()])
        inside = (t[row, chosen] * (t[row, chosen] / p[row, chosen]).log()).sum()
        ignored = ignored + inside
        expected = expected + inside
        if len(others):
            rest, ours = t[row, others].sum(), p[row, others].sum()
            expected = expected + rest * (rest / ours).log()
    found = forward_kl(student, target, reduction="sum")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, check_dtype=False)
    found = forward_kl(student, target, reduction="sum", tail="ignore")
    torch.testing.assert_close(found, ignored, rtol=1e-4, atol=1e-5, check_dtype=False)


def test_the_ghost_keeps_its_gradient_where_the_others_have_almost_nothing() -> None:
    # 1 - sum_K p is 0 in float32 here: 3 others with 1e-9 each.
    student = torch.tensor([[20.0, 0.0, -0.7, -0.7, -0.7]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 0.5, 0.5, 0.5]])
    target = top_k(teacher, 1)
    exact = student.detach().double().requires_grad_()
    torch.testing.assert_close(
        slope(forward_kl(student, target), student),
        slope(forward_kl(exact, target), exact),
        check_dtype=False,
    )
    assert float(slope(forward_kl(student, target), student)[0, 1:].sum()) < -0.5


@pytest.mark.parametrize("gap", [50.0, 200.0, 5_000.0])
def test_the_ghost_costs_what_it_costs_however_little_the_others_have(gap: float) -> None:
    student = torch.tensor([[gap, 0.0, -1.0, -2.0]], requires_grad=True)
    teacher = torch.tensor([[1.0, 0.0, 0.5, 0.5]])
    target = top_k(teacher, 1)
    t = teacher.softmax(-1)[0]
    rest = t[1:].sum()
    ours = torch.tensor([0.0, -1.0, -2.0]).logsumexp(0) - gap
    expected = t[0] * t[0].log() + rest * (rest.log() - ours)
    found = forward_kl(student, target)
    torch.testing.assert_close(found, expected)
    # The student has all of its probability on one id: the slope is the difference from the target.
    slopes = slope(found, student)[0]
    torch.testing.assert_close(slopes[0], rest)
    torch.testing.assert_close(slopes[1:], -rest * student.detach()[0, 1:].softmax(0))


def test_a_ghost_without_any_probability_costs_10_000_nats_times_the_teachers() -> None:
    student = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, -2e4, -3e4]], requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    target = top_k(teacher, 1)
    found = forward_kl(student, target, reduction="none")
    t, rest = torch.tensor(1 / 3), torch.tensor(2 / 3)
    expected = t * t.log() + rest * (rest.log() + 10_000)
    torch.testing.assert_close(found, expected.expand(2))
    assert slope(found.sum(), student).isfinite().all()


def test_a_tail_that_is_ignored_is_the_up_scaled_target() -> None:
    _, teacher = pair(1, 8)
    target = top_k(teacher, 3)
    scaled = target.dense() / target.dense().sum()
    optimum = scaled.clamp_min(1e-20).log().requires_grad_()
    assert slope(forward_kl(optimum, target, tail="ignore"), optimum).abs().max() < 1e-6
    assert slope(forward_kl(optimum, target), optimum).abs().max() > 1e-2


@pytest.mark.parametrize("excluded", ["student", "teacher", "both"])
@pytest.mark.parametrize("fill", [-math.inf, torch.finfo(torch.float32).min])
def test_masked_ids_make_no_nan(excluded: str, fill: float) -> None:
    student, teacher = pair(4, 8)
    masked = student.detach().clone()
    if excluded != "teacher":
        masked[:, 5:] = fill
    masked.requires_grad_()
    if excluded != "student":
        teacher[:, 5:] = fill
    losses = [
        forward_kl(masked, teacher),
        reverse_kl(masked, teacher),
        jsd(masked, teacher),
        forward_kl(masked, sampled(teacher)),
        forward_kl(masked, top_k(teacher, 6)),
        forward_kl(masked, top_k(teacher, 5)),
        forward_kl(masked, top_k(teacher, 6), tail="ignore"),
    ]
    for number, loss in enumerate(losses):
        assert torch.isfinite(loss), number
        assert torch.isfinite(slope(loss, masked)).all(), number
    if excluded == "both":
        cut = masked[:, :5].detach()
        torch.testing.assert_close(forward_kl(masked, teacher), forward_kl(cut, teacher[:, :5]))
        torch.testing.assert_close(reverse_kl(masked, teacher), reverse_kl(cut, teacher[:, :5]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_measured_in_float32(dtype: torch.dtype) -> None:
    student, teacher = pair(5, 7)
    student = student.detach().to(dtype).requires_grad_()
    teacher = teacher.to(dtype)
    for target in (teacher, sampled(teacher), top_k(teacher, 3)):
        loss = forward_kl(student, target)
        assert loss.dtype == torch.float32
        wide = target.float() if isinstance(target, torch.Tensor) else target
        exact = student.detach().float().requires_grad_()
        torch.testing.assert_close(loss, forward_kl(exact, wide))
        expected = slope(forward_kl(exact, wide), exact).to(dtype)
        torch.testing.assert_close(slope(loss, student), expected)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = pair(5, 7)
    teacher.requires_grad_()
    reverse_kl(student, teacher).backward()
    assert student.grad is not None and teacher.grad is None


def test_no_positions_are_a_loss_of_zero_with_a_gradient_of_zero() -> None:
    student, teacher = pair(2, 3, 7)
    for target in (teacher, sampled(teacher), top_k(teacher, 2)):
        loss = forward_kl(student, target, mask=torch.zeros(2, 3))
        assert float(loss.detach()) == 0
        assert torch.equal(slope(loss, student), torch.zeros_like(student))
    nothing = forward_kl(student, teacher, mask=torch.zeros(2, 3), reduction="none")
    assert nothing.shape == (0,)
