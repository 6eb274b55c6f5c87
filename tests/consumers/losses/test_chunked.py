"""Losses from hidden states and a head: the same values and gradients, without the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.targets import sampled, top_k
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tutelage.consumers.losses import chunked
from tutelage.losses import Head, Projection, forward_kl, jsd, reverse_kl
from tutelage.schemas.errors import ConfigurationError

HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": 13},
    "scale": {"scale": 0.3},
    "softcap": {"softcap": 2.0},
    "padded": {"vocabulary": 11, "bias": 13},
    "rms": {"norm": "rms", "norm_weight": 6},
    "rms without weight": {"norm": "rms"},
    "layer": {"norm": "layer", "norm_weight": 6, "norm_bias": 6, "eps": 1e-5},
    "all": {
        "bias": 13,
        "scale": 1.7,
        "softcap": 3.0,
        "vocabulary": 11,
        "norm": "layer",
        "norm_weight": 6,
        "norm_bias": 6,
    },
}
LOSSES: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "forward_kl": (forward_kl, "dense"),
    "forward_kl of a projection": (forward_kl, "projection"),
    "forward_kl of samples": (forward_kl, "sampled"),
    "forward_kl of top-k": (forward_kl, "top-k"),
    "reverse_kl": (reverse_kl, "dense"),
    "reverse_kl of a projection": (reverse_kl, "projection"),
    "jsd": (jsd, "dense"),
}


def head_of(kind: str, dtype: torch.dtype = torch.float64, seed: int = 1) -> Head:
    """A head of 13 rows and width 6, whose tensors all learn."""
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape: int) -> torch.Tensor:
        return (
            torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        )

    arguments: dict[str, Any] = {
        name: tensor(value) if name in ("bias", "norm_weight", "norm_bias") else value
        for name, value in HEADS[kind].items()
    }
    return Head(weight=tensor(13, 6), **arguments)


def hidden_of(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(*shape, 6, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    )


def target_of(kind: str, vocabulary: int, *shape: int) -> Any:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(*shape, vocabulary, generator=generator, dtype=torch.float64) * 2
    if kind == "sampled":
        return sampled(logits)
    if kind == "top-k":
        return top_k(logits, 4)
    if kind == "projection":
        teacher = replace(head_of("all", seed=5), vocabulary=vocabulary)
        return Projection(hidden_of(*shape, seed=4), teacher)
    return logits


def learnt(
    loss: torch.Tensor, hidden: torch.Tensor, head: Head, upstream: torch.Tensor | None = None
) -> dict[str, torch.Tensor]:
    """The gradients of all that learns."""
    inputs = {"hidden": hidden, **head.tensors()}
    found = torch.autograd.grad(loss, list(inputs.values()), upstream)
    return dict(zip(inputs, found, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("head_kind", HEADS)
@pytest.mark.parametrize("name", LOSSES)
def test_values_and_all_gradients_are_those_of_the_logits(
    name: str, head_kind: str, reduction: str
) -> None:
    loss, target_kind = LOSSES[name]
    head, hidden = head_of(head_kind), hidden_of(2, 5)
    target = target_of(target_kind, head.vocabulary, 2, 5)
    whole = target.logits().detach() if isinstance(target, Projection) else target
    mask = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 1, 0, 1]])
    for kept in (None, mask):
        options = {"mask": kept, "reduction": reduction}
        found = loss(Projection(hidden, head), target, chunk_positions=3, **options)
        plain = loss(head.logits(hidden), whole, **options)
        torch.testing.assert_close(found, plain)
        upstream = torch.linspace(-1, 2, plain.numel(), dtype=plain.dtype).view(plain.shape)
        torch.testing.assert_close(
            learnt(found, hidden, head, upstream), learnt(plain, hidden, head, upstream)
        )


@settings(max_examples=40)
@given(st.integers(0, 9), st.integers(1, 12), st.sampled_from(["sampled", "top-k", "dense"]))
def test_any_number_of_positions_in_chunks_of_any_size(
    positions: int, size: int, kind: str
) -> None:
    head, hidden = head_of("bias"), hidden_of(positions)
    target = target_of(kind, 13, positions)
    found = forward_kl(Projection(hidden, head), target, chunk_positions=size, reduction="sum")
    plain = forward_kl(head.logits(hidden), target, reduction="sum")
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(learnt(found, hidden, head), learnt(plain, hidden, head))


def test_logits_against_a_projection_learn_as_against_logits() -> None:
    student = hidden_of(4) @ torch.randn(6, 11, dtype=torch.float64)
    student = student.detach().requires_grad_()
    target = Projection(hidden_of(4), head_of("padded"))
    for reduction in ("mean", "none"):
        found = forward_kl(student, target, chunk_positions=3, reduction=reduction)
        plain = forward_kl(student, target.logits(), reduction=reduction)
        torch.testing.assert_close(found, plain)
        upstream = torch.full_like(plain, 0.7)
        (slope,) = torch.autograd.grad(found, student, upstream)
        (expected,) = torch.autograd.grad(plain, student, upstream)
        torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_in_chunks_learn_as_all_at_once(
    dtype: torch.dtype, reduction: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 4 * 50 * 4)
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(64, 50, generator=generator).to(dtype).requires_grad_()
    target = sampled(torch.randn(64, 50, generator=generator))
    mask = torch.arange(64) % 3
    whole = forward_kl(student, target, mask=mask, reduction=reduction)
    with largest(torch.float32) as seen:
        parts = forward_kl(student, target, mask=mask, reduction=reduction, chunk_positions=4)
        torch.testing.assert_close(parts, whole)
        upstream = torch.full_like(whole, 1.37)
        (slope,) = torch.autograd.grad(parts, student, upstream)
    torch.testing.assert_close(slope, torch.autograd.grad(whole, student, upstream)[0])
    assert dtype == torch.float32 or seen.elements <= len(target.ids)


@pytest.mark.parametrize("scale", [1e5, 1 / 3])
def test_upstream_gradients_are_not_rounded_to_the_dtype_of_what_learns(scale: float) -> None:
    head, hidden = head_of("plain", torch.float16), hidden_of(9, dtype=torch.float16)
    target = target_of("dense", 13, 9).float()
    loss = forward_kl(Projection(hidden, head), target) * scale
    # 1e5 is infinite in float16, and a third is 1e-4 off; the gradients themselves are finite.
    for name, slope in learnt(loss * 1e-2, hidden, head).items():
        plain = forward_kl(head.logits(hidden), target)
        expected = learnt(plain, hidden, head)[name].double() * scale * 1e-2
        assert (slope.double() - expected).norm() < 3e-3 * expected.norm()


def test_gradients_are_those_of_finite_differences() -> None:
    head, hidden = head_of("all"), hidden_of(4)
    target = target_of("dense", 11, 4)
    names, tensors = list(head.tensors()), list(head.tensors().values())

    def loss(hidden: torch.Tensor, *given: torch.Tensor) -> torch.Tensor:
        changed = replace(head, **dict(zip(names, given, strict=True)))  # type: ignore[arg-type]
        student = Projection(hidden, changed)
        return forward_kl(student, target, chunk_positions=3, reduction="none")

    assert torch.autograd.gradcheck(loss, (hidden, *tensors))


def test_only_what_learns_gets_a_gradient() -> None:
    head = head_of("all").detached()
    hidden = hidden_of(4)
    target = target_of("dense", 11, 4)
    forward_kl(Projection(hidden, head), target).backward()
    assert hidden.grad is not None
    learner = replace(head, weight=head.weight.clone().requires_grad_())
    still = hidden.detach()
    forward_kl(Projection(still, learner), target).backward()
    assert learner.weight.grad is not None and still.grad is None
    with torch.no_grad():
        assert not forward_kl(Projection(hidden, learner), target).requires_grad
    assert not forward_kl(Projection(still, head), target).requires_grad


def test_a_second_derivative_is_refused() -> None:
    head, hidden = head_of("plain"), hidden_of(4)
    loss = forward_kl(Projection(hidden, head), target_of("dense", 13, 4))
    with pytest.raises(ConfigurationError, match="has no second derivative"):
        torch.autograd.grad(loss, hidden, create_graph=True)


def test_a_loss_can_be_differentiated_twice_over_a_kept_graph() -> None:
    head, hidden = head_of("plain"), hidden_of(4)
    loss = forward_kl(Projection(hidden, head), target_of("dense", 13, 4))
    first = torch.autograd.grad(loss, hidden, torch.tensor(2.0), retain_graph=True)
    second = torch.autograd.grad(loss, hidden, torch.tensor(1.0))
    torch.testing.assert_close(first[0], 2 * second[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_have_the_dtypes_of_what_learns(dtype: torch.dtype) -> None:
    head, hidden = head_of("all", dtype), hidden_of(9, dtype=dtype)
    target = target_of("dense", 11, 9).float()
    found = forward_kl(Projection(hidden, head), target, chunk_positions=2)
    assert found.dtype == torch.float32
    exact_head = replace(
        head,
        **{name: each.detach().double().requires_grad_() for name, each in head.tensors().items()},  # type: ignore[arg-type]
    )
    exact = hidden.detach().double().requires_grad_()
    expected = learnt(forward_kl(exact_head.logits(exact), target), exact, exact_head)
    rough = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    for name, slope in learnt(found, hidden, head).items():
        assert slope.dtype == dtype
        error = (slope.double() - expected[name]).norm() / expected[name].norm()
        assert error < rough, (name, error)


def test_autocast_chooses_the_dtype_of_the_product() -> None:
    head, hidden = head_of("rms", torch.float32), hidden_of(9, dtype=torch.float32)
    target = target_of("dense", 13, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head.logits(hidden), head.logits(hidden).bfloat16().float())
        found = forward_kl(Projection(hidden, head), target, chunk_positions=4)
        plain = forward_kl(head.logits(hidden), target)
    torch.testing.assert_close(found, plain)
    exact = forward_kl(head.logits(hidden), target)
    assert not torch.equal(found, exact)
    ours, theirs = learnt(found, hidden, head), learnt(exact, hidden, head)
    for name, slope in ours.items():
        assert slope.dtype == torch.float32
        assert (slope - theirs[name]).norm() < 0.03 * theirs[name].norm()


def test_autocast_holds_for_a_teachers_projection_too_and_its_weight_is_converted_once() -> None:
    head, hidden = head_of("rms", torch.float32), hidden_of(9, dtype=torch.float32)
    logits = torch.randn(9, 13, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with _Conversions(head.weight.shape) as conversions:
            found = forward_kl(logits, Projection(hidden, head), chunk_positions=2)
        plain = forward_kl(logits, head.logits(hidden))
    torch.testing.assert_close(found, plain)
    assert not torch.equal(found, forward_kl(logits, head.logits(hidden)))
    assert conversions.count == 1


class _Conversions(TorchDispatchMode):
    """Counts how often a tensor of a shape is copied to another dtype."""

    def __init__(self, shape: torch.Size) -> None:
        super().__init__()
        self._shape = shape
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.shape == self._shape:
            self.count += 1
        return result


class _Largest(TorchDispatchMode):
    """The most elements of any tensor, of a dtype or of any, that an operation returns."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_iter(result):
            if isinstance(each, torch.Tensor) and self.dtype in (None, each.dtype):
                self.elements = max(self.elements, each.numel())
        return result


@contextmanager
def largest(dtype: torch.dtype | None = None) -> Iterator[_Largest]:
    with _Largest(dtype) as mode:
        yield mode


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_no_tensor_has_as_many_elements_as_the_logits_of_all_positions(
    name: str, reduction: str
) -> None:
    loss, target_kind = LOSSES[name]
    if target_kind == "dense":
        pytest.skip("its target is as large")
    positions, vocabulary, width, size = 512, 200, 6, 8
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(vocabulary, width, generator=generator).requires_grad_()
    head = Head(weight=weight, norm="rms", softcap=9.0)
    hidden = hidden_of(2, positions // 2, dtype=torch.float32)
    target: Any = Projection(hidden.detach() * 2, head)
    if target_kind != "projection":
        logits = target.logits().detach()
        target = sampled(logits) if target_kind == "sampled" else top_k(logits, 4)
    with largest() as seen:
        found = loss(Projection(hidden, head), target, chunk_positions=size, reduction=reduction)
        found.sum().backward()
    assert weight.grad is not None
    assert size * vocabulary <= seen.elements < positions * vocabulary / 8
    with largest() as seen:
        loss(target.logits() if isinstance(target, Projection) else head.logits(hidden), target)
    assert seen.elements >= positions * vocabulary


def test_a_chunk_is_as_large_as_64_mib_of_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked, "CHUNK_BYTES", 13 * 4 * 3)
    seen = []
    kept = Head.finished

    def finished(self: Head, product: torch.Tensor) -> torch.Tensor:
        seen.append(product.shape[0])
        return kept(self, product)

    monkeypatch.setattr(Head, "finished", finished)
    forward_kl(Projection(hidden_of(7), head_of("plain")), target_of("dense", 13, 7))
    assert seen == [3, 3, 1]


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
def test_on_a_gpu_values_and_gradients_are_those_of_the_cpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    loss, target_kind = LOSSES[name]
    head, hidden = head_of("all"), hidden_of(2, 5)
    target = target_of(target_kind, 11, 2, 5)
    there = target.to("cuda") if not isinstance(target, Projection) else None
    if there is None:
        there = Projection(target.hidden.cuda(), target.head.to("cuda"))
    mask = torch.tensor([[1, 0, 1, 1, 1], [0, 0, 1, 0, 1]])
    expected = loss(Projection(hidden, head), target, mask=mask)
    for student in (
        Projection(hidden.cuda(), head.to("cuda")),
        head.to("cuda").logits(hidden.cuda()),
    ):
        found = loss(student, there, mask=mask.cuda(), chunk_positions=3)
        torch.testing.assert_close(found.cpu(), expected)
        torch.testing.assert_close(
            learnt(found, hidden, head),
            learnt(loss(Projection(hidden, head), target, mask=mask), hidden, head),
        )


@pytest.mark.gpu
def test_on_a_gpu_memory_does_not_grow_with_positions_times_vocabulary() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    vocabulary, width = 32_000, 256
    weight = torch.randn(vocabulary, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
    head = Head(weight=weight)
    peaks = []
    for positions in (4_096, 16_384):
        hidden = torch.randn(positions, width, device="cuda", dtype=torch.bfloat16).requires_grad_()
        target = Projection(hidden.detach().clone(), head)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forward_kl(Projection(hidden, head), target).backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        weight.grad = None
    # Four times the positions have 1.5 GB more of float32 logits; what grows are hidden states.
    assert peaks[1] - peaks[0] < 64 << 20
