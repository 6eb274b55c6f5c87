"""The losses under `torch.compile`: one graph, whatever the number of entries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.targets import sampled, top_k

from tutelage.losses import Head, Projection, forward_kl, jsd, reverse_kl

V = 11


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, V, generator=generator).requires_grad_()


def check(
    loss: Callable[..., torch.Tensor], compiled: Callable[..., torch.Tensor], *given: Any
) -> None:
    student, *others = given
    expected, found = loss(student, *others), compiled(student, *others)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, student), torch.autograd.grad(expected, student)
    )


@pytest.mark.parametrize("loss", [forward_kl, reverse_kl, jsd])
def test_dense_losses_are_one_graph(loss: Callable[..., torch.Tensor]) -> None:
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    check(loss, compiled, logits(2, 5), logits(2, 5, seed=1).detach())


@pytest.mark.parametrize("kind", ["sampled", "top-k"])
def test_sparse_losses_are_one_graph_for_any_number_of_entries(kind: str) -> None:
    compiled = torch.compile(forward_kl, backend="aot_eager", fullgraph=True)
    entries = set()
    for seed in range(6):
        teacher = logits(2, 5, seed=seed + 1).detach()
        target = sampled(teacher, seed=seed) if kind == "sampled" else top_k(teacher, 2 + seed)
        entries.add(len(target.ids))
        with torch.compiler.set_stance("default" if seed < 3 else "fail_on_recompile"):
            check(forward_kl, compiled, logits(2, 5, seed=seed + 20), target)
    assert len(entries) > 3


def test_ragged_rows_and_the_positions_of_a_mask_are_one_graph() -> None:
    compiled = torch.compile(forward_kl, backend="aot_eager", fullgraph=True)
    for lengths in ([2, 5, 0], [3, 1, 4]):
        target = sampled(logits(sum(lengths), seed=1).detach(), lengths=lengths)
        check(forward_kl, compiled, logits(3, max(lengths)), target)

    def masked(student: torch.Tensor, target: Any, mask: torch.Tensor) -> torch.Tensor:
        return forward_kl(student, target, mask=mask)

    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]])
    target = top_k(logits(4, seed=1).detach(), 3, lengths=[2, 2])
    check(
        masked,
        torch.compile(masked, backend="aot_eager", fullgraph=True),
        logits(2, 4),
        target,
        mask,
    )


def test_a_mask_over_all_positions_breaks_the_graph_and_is_right() -> None:
    def masked(student: torch.Tensor, target: Any, mask: torch.Tensor) -> torch.Tensor:
        return forward_kl(student, target, mask=mask)

    compiled = torch.compile(masked, backend="aot_eager")
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 0, 1]])
    teacher = logits(2, 4, seed=1).detach()
    for target in (teacher, sampled(teacher)):
        check(masked, compiled, logits(2, 4), target, mask)


def test_a_projection_breaks_the_graph_and_is_right() -> None:
    head = Head(weight=torch.randn(V, 4, generator=torch.Generator().manual_seed(0)))

    def loss(hidden: torch.Tensor, target: Any) -> torch.Tensor:
        return forward_kl(Projection(hidden * 2, head), target, chunk_positions=2)

    hidden = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    target = sampled(logits(5, seed=1).detach())
    check(loss, torch.compile(loss, backend="aot_eager"), hidden, target)
