"""A loss in chunks of positions, so that logits `[positions, vocabulary]` never exist.

The sum of a loss has its gradients computed in the forward pass, chunk by chunk, and the backward
pass only scales them: the method of Liger Kernel's fused linear cross-entropy (arXiv 2410.10989).
One number for each position (`reduction="none"`) has a gradient of its own in the backward pass:
there the chunks are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional

from tutelage.consumers.losses.candidates import Candidates
from tutelage.consumers.losses.entries import Entries
from tutelage.consumers.losses.head import Head, widened
from tutelage.consumers.losses.projection import Projection
from tutelage.schemas.errors import ConfigurationError

# The memory of one float32 chunk `[positions, vocabulary]`; a handful of them exist at a time. The
# weight is read, and its gradient added to, once for each chunk. On an H200, 8,192 positions of
# 151,936 ids took 84 ms so, 32 ms in chunks of 296 MiB and 30 ms all at once; the most memory was
# 0.25, 1.05 and 13.9 GiB.
CHUNK_BYTES = 64 << 20
GPU_CHUNK_BYTES = 256 << 20

Target = torch.Tensor | Projection | Entries | Candidates
Piece = torch.Tensor | Entries | Candidates
Measure = Callable[[torch.Tensor, Any], torch.Tensor]
_TENSORS = ("weight", "bias", "norm_weight", "norm_bias")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    """What is computed: `measure` of the logits of `size` positions at a time."""

    measure: Measure
    cut: Callable[[int, int], Piece]
    size: int
    count: int
    each: bool
    head: Head | None
    # The rows of weight and bias that are tokens, in the dtype of the product.
    weight: torch.Tensor
    bias: torch.Tensor | None

    def spans(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self.count, self.size):
            yield start, min(start + self.size, self.count)


def chunked_loss(
    student: torch.Tensor | Projection,
    target: Target,
    measure: Measure,
    *,
    each: bool,
    chunk_positions: int | None = None,
) -> torch.Tensor:
    """Compute a loss in chunks of positions.

    Args:
        student: Logits `[n, V]`, or hidden states `[n, H]` with their head.
        target: Logits `[n, V]`, hidden states with their head, entries or candidates, of the same
            positions. No gradient reaches it.
        measure: Float32 (or float64) logits and a piece of the target -> one number a position.
        each: Whether to return one number for each position, or their sum.
        chunk_positions: How many positions a chunk has; None for as many as make 64 MiB of float32
            logits, or 256 MiB on a GPU.

    Returns:
        float32 or float64, `[n]` or `[]`.
    """
    hidden = student.hidden if isinstance(student, Projection) else student
    head = student.head if isinstance(student, Projection) else None
    nbytes = CHUNK_BYTES if hidden.device.type == "cpu" else GPU_CHUNK_BYTES
    size = chunk_positions or max(1, nbytes // (4 * student.shape[-1]))
    weight, bias = (hidden, None) if head is None else head.detached().operands(hidden)
    job = _Job(
        measure=measure,
        cut=_cutter(target, size),
        size=size,
        count=hidden.shape[0],
        each=each,
        head=None if head is None else head.detached(),
        weight=weight,
        bias=bias,
    )
    given = [None if head is None else getattr(head, name) for name in _TENSORS]
    result: torch.Tensor = _Chunked.apply(job, torch.is_grad_enabled(), hidden, *given)
    return result


def _cutter(target: Target, size: int) -> Callable[[int, int], Piece]:
    """Return a function that gives a chunk's piece of the target."""
    if isinstance(target, Entries):
        bounds = target.bounds(size)

        def cut(start: int, stop: int) -> Piece:
            first = start // size
            return target.cut(slice(start, stop), slice(bounds[first], bounds[first + 1]))

        return cut
    if isinstance(target, Candidates):
        return target.cut
    if isinstance(target, Projection):
        head, hidden = target.head.detached(), target.hidden.detach()
        # Autocast is still on here. The weight is converted once for all chunks.
        weight, bias = head.operands(hidden)
        return lambda start, stop: head.project(hidden[start:stop], weight, bias)
    logits = target.detach()
    return lambda start, stop: widened(logits[start:stop])


class _Gradients:
    """Sums of gradients over chunks: of the hidden states, and of the head's tensors in float32."""

    def __init__(self, hidden: torch.Tensor, head: Head | None, wanted: tuple[bool, ...]) -> None:
        given = {} if head is None else head.tensors()
        self.hidden = torch.empty_like(hidden) if wanted[0] else None
        self.sums: dict[str, torch.Tensor] = {
            name: torch.zeros_like(given[name], dtype=widened(given[name][:0]).dtype)
            for name, is_wanted in zip(_TENSORS, wanted[1:], strict=True)
            if is_wanted and name in given
        }

    def all(self) -> list[torch.Tensor | None]:
        return [self.hidden, *map(self.sums.get, _TENSORS)]


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, job: _Job, learns: bool, hidden: torch.Tensor, *given: torch.Tensor | None
    ) -> torch.Tensor:
        wanted = tuple(learns and needs for needs in ctx.needs_input_grad[2:])
        ctx.job, ctx.wanted = job, wanted
        ctx.dtypes = [None if each is None else each.dtype for each in (hidden, *given)]
        with _without_autocast(hidden):
            if job.each or not any(wanted):
                ctx.save_for_backward(hidden, *given)
                steps = [_values(job, hidden, start, stop) for start, stop in job.spans()]
                values = torch.cat(steps) if steps else widened(hidden.new_zeros(0))
                return values if job.each else values.sum()
            gradients = _Gradients(hidden, job.head, wanted)
            total = widened(hidden.new_zeros(()))
            for start, stop in job.spans():
                total = total + _learn(job, hidden, start, stop, None, gradients)
        ctx.save_for_backward(*gradients.all())
        return total

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise ConfigurationError(
                "the loss of a Projection has no second derivative, which create_graph=True asks "
                "for; give logits instead: projection.logits()"
            )
        job = ctx.job
        if not job.each:
            found = [_scaled(each, upstream) for each in ctx.saved_tensors]
        else:
            hidden = ctx.saved_tensors[0]
            gradients = _Gradients(hidden, job.head, ctx.wanted)
            with _without_autocast(hidden):
                for start, stop in job.spans():
                    _learn(job, hidden, start, stop, upstream[start:stop], gradients)
            found = gradients.all()
        casts = zip(found, ctx.dtypes, strict=True)
        return (None, None, *(None if each is None else each.to(dtype) for each, dtype in casts))


def _scaled(gradient: torch.Tensor | None, factor: torch.Tensor) -> torch.Tensor | None:
    """Return a gradient times a number, which would be rounded to the gradient's dtype, part by part."""
    if gradient is None or gradient.dtype == factor.dtype:
        return None if gradient is None else gradient * factor
    result = torch.empty_like(gradient)
    rows = max(1, CHUNK_BYTES // 4 // max(1, gradient[:1].numel()))
    for into, part in zip(torch.split(result, rows), torch.split(gradient, rows), strict=True):
        into.copy_(part.to(factor.dtype) * factor)
    return result


def _values(job: _Job, hidden: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Return the loss at each position of a chunk, without a gradient."""
    part = hidden[start:stop]
    product = part if job.head is None else _product(job, job.head.normalised(part))
    return job.measure(_finished(job, product), job.cut(start, stop))


def _learn(
    job: _Job,
    hidden: torch.Tensor,
    start: int,
    stop: int,
    factors: torch.Tensor | None,
    gradients: _Gradients,
) -> torch.Tensor:
    """Return the sum of a chunk's loss, and add to the gradients; `factors` scale each position."""
    part = hidden[start:stop].detach().requires_grad_()
    head = job.head
    states, norm = part, {}
    if head is not None:
        norm = {name: each.detach().requires_grad_() for name, each in _norm(head).items()}
        with torch.enable_grad():
            states = replace(head, **norm).normalised(part)  # type: ignore[arg-type]
        product = _product(job, states.detach())
    else:
        product = part.detach()
    piece = job.cut(start, stop)
    product.requires_grad_()
    with torch.enable_grad():
        values = job.measure(_finished(job, product), piece)
        loss = (values if factors is None else values * factors).sum()
    (slope,) = torch.autograd.grad(loss, product)
    if head is None:
        if gradients.hidden is not None:
            gradients.hidden[start:stop] = slope
        return loss.detach()
    _add_product(head, states.detach().to(slope.dtype), slope, gradients)
    if gradients.hidden is not None or any(name in gradients.sums for name in norm):
        back = (slope @ job.weight).to(states.dtype)
        _add_states(part, states, norm, back, gradients, start, stop)
    return loss.detach()


def _add_product(
    head: Head, states: torch.Tensor, slope: torch.Tensor, gradients: _Gradients
) -> None:
    """Add the gradients of weight and bias, for the gradient of their product."""
    sums = gradients.sums
    if "weight" in sums:
        rows = sums["weight"][: head.vocabulary]
        if rows.dtype == slope.dtype:
            rows.addmm_(slope.T, states)
        else:
            rows.add_(slope.T @ states)
    if "bias" in sums:
        sums["bias"][: head.vocabulary].add_(widened(slope).sum(0))


def _add_states(
    part: torch.Tensor,
    states: torch.Tensor,
    norm: dict[str, torch.Tensor],
    back: torch.Tensor,
    gradients: _Gradients,
    start: int,
    stop: int,
) -> None:
    """Add the gradients of the hidden states and the norm's tensors, for that of its result."""
    inputs = {"hidden": part, **norm}
    slopes = dict.fromkeys(inputs, back)
    if states is not part:
        found = torch.autograd.grad(states, list(inputs.values()), back)
        slopes = dict(zip(inputs, found, strict=True))
    if gradients.hidden is not None:
        gradients.hidden[start:stop] = slopes["hidden"]
    for name in norm:
        if name in gradients.sums:
            gradients.sums[name].add_(slopes[name])


def _norm(head: Head) -> dict[str, torch.Tensor]:
    return {name: each for name, each in head.tensors().items() if name.startswith("norm")}


def _product(job: _Job, states: torch.Tensor) -> torch.Tensor:
    return functional.linear(states.to(job.weight.dtype), job.weight, job.bias)


def _finished(job: _Job, product: torch.Tensor) -> torch.Tensor:
    return widened(product) if job.head is None else job.head.finished(product)


def _without_autocast(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """The dtypes were chosen already, as autocast asks for; nothing is cast again."""
    kind = tensor.device.type
    if not torch.amp.is_autocast_available(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)
