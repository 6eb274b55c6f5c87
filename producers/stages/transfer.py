"""What a model returned -> columns on the host, in their wire dtype, described; from a GPU without waiting for it.

A copy from a CUDA device runs on the current stream's side stream into pinned memory while the next forward pass computes;
`HostBatch.columns` waits for it. On the CPU nothing is copied: columns are views of the model's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from tutelage.producers.stages.carried import plain, ragged_rows
from tutelage.producers.stages.joining import joined
from tutelage.producers.wire_options import WireOptions as WireOptions
from tutelage.schemas.dtypes import DTYPES, WIRE_ENCODINGS, DType, dtype_from_name
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Array, Column, Description, KeySpec, Ragged

# Torch integers as wide as an element: numpy has no name for some of torch's dtypes, but all bytes for them.
_SAME_IN_NUMPY = frozenset(
    (
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.float32,
        torch.float64,
    )
)
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """One key's tensor as the model gave it: torch or numpy, with lengths if its rows are ragged."""

    spec: KeySpec
    rows: int
    values: Any
    lengths: Any = None


class HostBatch:
    """One or more batches' columns on their way to the host; `counts` is the rows of each batch."""

    def __init__(self, parts: Sequence[_Part], stream: Any = None) -> None:
        self.rows = parts[0].rows
        self.counts = [self.rows]
        #: Whether it is known what the batch holds: of no rows, `[]` under each key, it is not.
        self.described = True
        self.description = Description(tuple(part.spec for part in parts))
        self._overflows: list[tuple[KeySpec, Any]] = []
        self._columns: Mapping[str, Column] = {}
        self._started = {part.spec.key: self._start(part, stream) for part in parts}
        self._event = stream.record_event() if stream is not None else None

    @classmethod
    def there(cls, description: Description, columns: Mapping[str, Column], rows: int) -> HostBatch:
        """A batch that is on the host already."""
        batch = cls.__new__(cls)
        batch.rows, batch.counts, batch.described, batch.description = (
            rows,
            [rows],
            True,
            description,
        )
        batch._overflows, batch._columns, batch._started, batch._event = [], columns, {}, None
        return batch

    @classmethod
    def empty(cls) -> HostBatch:
        """A batch of no rows, of which nobody knows what they would be like."""
        batch = cls.__new__(cls)
        batch.rows, batch.counts, batch.described = 0, [0], False
        batch._overflows, batch._columns, batch._started, batch._event = [], {}, {}, None
        return batch

    def columns(self) -> Mapping[str, Column]:
        """The columns as numpy views, once they are there. SchemaError if a value did not fit its encoding."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        for spec, overflowed in self._overflows:
            if bool(overflowed):
                raise SchemaError(
                    f"key {spec.key!r}: a finite value does not fit {spec.wire}{_advice(spec)}"
                )
        if self._started:
            self._columns = {key: _numpy_column(value) for key, value in self._started.items()}
            self._started = {}
        return self._columns

    def _start(self, part: _Part, stream: Any) -> tuple[KeySpec, Any, Any]:
        values, lengths, spec = part.values, part.lengths, part.spec
        if spec.wire != spec.dtype:
            cast = _cast(values, spec.wire)
            self._overflows.append((spec, _overflowed(values, cast)))
            values = cast
        return spec, _to_host(values, stream), _to_host(lengths, stream)


def start_transfer(
    knowledge: object, options: WireOptions, promised: Description | None = None, stream: Any = None
) -> HostBatch:
    """Begin to bring a batch of knowledge to the host.

    `knowledge` maps keys to torch tensors or numpy arrays [rows, ...], or for ragged keys to `Ragged`, a nested tensor or, if they were
    declared, a list of tensors. Raises SchemaError if it is no such mapping, DescriptionChanged if it differs from what was promised.
    """
    if not isinstance(knowledge, Mapping):
        raise SchemaError(
            f"the model returned a {type(knowledge).__name__}; it must return a dict of key -> tensor [rows, ...]: "
            "lambda batch: {'logits': model(batch)}"
        )
    for key in knowledge:
        if not isinstance(key, str):
            raise SchemaError(f"the model returned a key that is no text: {key!r}; keys are texts")
    if promised is not None and knowledge.keys() != set(promised):
        raise DescriptionChanged(
            f"the keys differ between batches: {sorted(knowledge, key=str)} after {sorted(promised)}; every batch holds the same keys"
        )
    keys = list(promised or knowledge)
    if not keys:
        raise SchemaError("the model returned an empty dict; a batch must hold at least one tensor")
    if promised is None:
        unknown = sorted(options.named - set(keys))
        if unknown:
            raise SchemaError(
                f"wire or ragged names {unknown}, but the model returned {sorted(keys)}"
            )
        if all(isinstance(value, (list, tuple)) and not value for value in knowledge.values()):
            # No rows, and nothing that says what they would be like.
            return HostBatch.empty()
    parts = [
        _part(key, knowledge[key], options, promised[key] if promised is not None else None)
        for key in keys
    ]
    if len({part.rows for part in parts}) > 1:
        raise SchemaError(
            "the keys of one batch differ in rows: "
            + ", ".join(f"{part.spec.key!r} has {part.rows}" for part in parts)
        )
    return HostBatch(parts, stream)


def start_transfers(
    group: Sequence[object], options: WireOptions, promised: Description | None, stream: Any
) -> list[HostBatch]:
    """The same for batches that came together: small ones as one."""
    counts: list[int] | None = None
    if promised is not None and len(group) > 1:
        together = joined(group, promised)
        if together is not None:
            group, counts = [together[0]], together[1]
    batches = [
        (_as_promised(knowledge, promised) if promised is not None and stream is None else None)
        or start_transfer(knowledge, options, promised, stream)
        for knowledge in group
    ]
    if counts is not None:
        batches[0].counts = counts
    return batches


def _as_promised(knowledge: Any, promised: Description) -> HostBatch | None:
    """A batch that is just what was promised, in host memory: looked at as it is. None if there is more to it, or something wrong."""
    plan = _host_plan(promised)
    if plan is None or type(knowledge) is not dict or len(knowledge) != len(plan):
        return None
    columns: dict[str, Column] = {}
    rows = -1
    try:
        for key, dtype, shape, carrier, storage in plan:
            tensor = knowledge[key]
            if type(tensor) is not torch.Tensor or tensor.dtype is not dtype:
                return None
            # Refused by torch for what is on a device, sparse, conjugated or part of a graph; freed memory has no address.
            if not tensor.data_ptr() and tensor.numel():
                return None
            array = (
                tensor.numpy() if carrier is None else tensor.view(carrier).numpy().view(storage)
            )
            if (
                array.shape[1:] != shape
                or not array.flags.c_contiguous
                or (rows >= 0 and len(array) != rows)
            ):
                return None
            rows = len(array)
            columns[key] = array
    except (KeyError, RuntimeError, TypeError):
        return None
    return HostBatch.there(promised, columns, rows)


@lru_cache(maxsize=8)
def _host_plan(
    promised: Description,
) -> list[tuple[str, torch.dtype, tuple[int, ...], Any, Any]] | None:
    """Per key what `_as_promised` compares; None where batches need more than looking at."""
    if any(spec.ragged or spec.wire != spec.dtype for spec in promised.specs):
        return None
    plan = []
    for spec in promised.specs:
        dtype = getattr(torch, spec.dtype, None)
        if not isinstance(dtype, torch.dtype):
            return None
        carrier = None if dtype in _SAME_IN_NUMPY else _CARRIERS.get(dtype.itemsize)
        if carrier is None and dtype not in _SAME_IN_NUMPY:
            return None
        plan.append((spec.key, dtype, spec.shape, carrier, spec.wire_dtype.numpy_dtype))
    return plan


def _part(key: str, value: Any, options: WireOptions, promised: KeySpec | None) -> _Part:
    where = f"key {key!r}"
    declared = key in options.ragged or (promised is not None and promised.ragged)
    rows_of_it = ragged_rows(value, key, declared=declared, promised=promised)
    lengths = None
    if rows_of_it is not None:
        value, lengths = rows_of_it
    elif promised is not None and isinstance(value, (list, tuple)) and not value:
        value = np.empty((0, *promised.shape), dtype_from_name(promised.dtype, where).numpy_dtype)
    values, dtype = _with_dtype(value, where, promised)
    if values.ndim == 0:
        raise SchemaError(
            f"{where} is a single number; its first dimension must be the batch's rows"
        )
    inner = tuple(values.shape[1:])
    if lengths is None and declared and inner:
        lengths = np.full(values.shape[0], inner[0], np.int64)
        values = values.reshape(values.shape[0] * inner[0], *inner[1:])
        inner = inner[1:]
    shape = inner if lengths is None else (-1, *inner)
    rows = values.shape[0] if lengths is None else len(lengths)
    if promised is not None:
        if (promised.dtype, promised.shape) != (dtype.name, shape):
            hint = (
                "; rows of varying length must be declared: Teacher(ragged_keys=[...])"
                if promised.dtype == dtype.name
                else ""
            )
            raise DescriptionChanged(
                f"{where} was {promised} and became {KeySpec(key=key, dtype=dtype.name, shape=shape)} in the middle of a run{hint}"
            )
        return _Part(spec=promised, rows=rows, values=values, lengths=lengths)
    spec = KeySpec(key=key, dtype=dtype.name, shape=shape, wire=options.encoding(key, dtype.name))
    return _Part(spec=spec, rows=rows, values=values, lengths=lengths)


def _with_dtype(value: Any, where: str, promised: KeySpec | None) -> tuple[Any, DType]:
    values, dtype = plain(value, where)
    if (
        promised is not None
        and isinstance(value, np.ndarray)
        and dtype.name != promised.dtype
        and not value.size
    ):
        # Storage that several dtypes share (float4 is stored as bytes), made here for no elements.
        named = dtype_from_name(promised.dtype, where)
        if named.numpy_dtype == dtype.numpy_dtype:
            return values, named
    return values, dtype


def _cast(values: Any, wire: str) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(getattr(torch, wire))
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[wire].numpy_dtype)


def _overflowed(values: Any, cast: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return (torch.isinf(cast) & torch.isfinite(values)).any()
    return (np.isinf(cast) & np.isfinite(values)).any()


def _advice(spec: KeySpec) -> str:
    """What to send a key as instead of a wire dtype that is too small: one of a clearly larger range, if the key's dtype allows one."""
    largest = float(np.finfo(np.float16).max) if spec.wire == "float16" else None
    if largest is None:
        # bfloat16 and float32 have the same range, but for a last step.
        return f"; send it as it is, {spec.dtype}: no smaller dtype holds larger values than {spec.wire}"
    larger = [name for name in WIRE_ENCODINGS[spec.dtype] if name != spec.wire]
    return f", which ends at {largest:.0f}; send it as {' or '.join(larger)}, which end at 3.4e38, or as it is, {spec.dtype}"


def _to_host(values: Any, stream: Any) -> Any:
    if not isinstance(values, torch.Tensor):
        return values
    if values.requires_grad or values.is_conj() or values.is_neg() or not values.is_contiguous():
        values = values.detach().resolve_conj().resolve_neg().contiguous()
    if values.device.type == "cpu":
        return values
    if stream is None:
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, device="cpu", pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(stream):
        host.copy_(values, non_blocking=True)
    # The allocator must not hand the source's memory to the next forward pass before the copy is done.
    values.record_stream(stream)
    return host


def _numpy_column(started: tuple[KeySpec, Any, Any]) -> Column:
    spec, values, lengths = started
    array = _numpy(values, spec.wire_dtype.numpy_dtype)
    return array if lengths is None else Ragged(array, np.asarray(lengths, np.int64))


def _numpy(values: Any, storage: np.dtype[Any]) -> Array:
    """A host tensor as a numpy view; torch dtypes numpy does not know go through integers of their width."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    if values.dtype in _SAME_IN_NUMPY:
        return np.asarray(values.numpy())
    carrier = _CARRIERS.get(values.element_size())
    return np.asarray(
        values.numpy() if carrier is None else values.view(carrier).numpy().view(storage)
    )


def without_torch(value: Any) -> Any:
    """A control message with its torch tensors as numpy arrays."""
    if isinstance(value, torch.Tensor):
        dtype = dtype_from_name(str(value.dtype).removeprefix("torch."), "control message")
        return _numpy(_to_host(value, None).reshape(-1), dtype.numpy_dtype).reshape(value.shape)
    if isinstance(value, dict):
        return {key: without_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_torch(item) for item in value]
    return value
