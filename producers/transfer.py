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

from tutelage.producers.joining import joined
from tutelage.schemas.dtypes import DTYPES, dtype_named, dtype_of_array
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Array, Column, Description, KeySpec, Ragged

# Torch integers as wide as an element: numpy has no name for some of torch's dtypes, but all bytes for them.
_SAME_IN_NUMPY = frozenset(
    (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.float32, torch.float64)
)
_CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True, slots=True)
class WireOptions:
    """What the user asked for: an encoding per key (or one for all floats), and which keys are ragged."""

    encodings: Mapping[str, str] | str
    ragged: frozenset[str]

    def encoding(self, key: str, dtype: str) -> str:
        """The wire dtype of a key whose model dtype is `dtype`."""
        if isinstance(self.encodings, str):
            return self.encodings if self.encodings and dtype in ("float32", "float64") else dtype
        return self.encodings.get(key, dtype)


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
        self.description = Description(tuple(part.spec for part in parts))
        self._overflows: list[tuple[str, str, Any]] = []
        self._columns: Mapping[str, Column] = {}
        self._started = {part.spec.key: self._start(part, stream) for part in parts}
        self._event = stream.record_event() if stream is not None else None

    @classmethod
    def there(cls, description: Description, columns: Mapping[str, Column], rows: int) -> HostBatch:
        """A batch that is on the host already."""
        batch = cls.__new__(cls)
        batch.rows, batch.counts, batch.description = rows, [rows], description
        batch._overflows, batch._columns, batch._started, batch._event = [], columns, {}, None
        return batch

    def columns(self) -> Mapping[str, Column]:
        """The columns as numpy views, once they are there. SchemaError if a value did not fit its encoding."""
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        for key, wire, overflowed in self._overflows:
            if bool(overflowed):
                raise SchemaError(f"key {key!r}: a finite value does not fit {wire}; send it as bfloat16, or as it is")
        if self._started:
            self._columns = {key: _numpy_column(value) for key, value in self._started.items()}
            self._started = {}
        return self._columns

    def _start(self, part: _Part, stream: Any) -> tuple[KeySpec, Any, Any]:
        values, lengths, spec = part.values, part.lengths, part.spec
        if spec.wire != spec.dtype:
            cast = _cast(values, spec.wire)
            self._overflows.append((spec.key, spec.wire, _overflowed(values, cast)))
            values = cast
        return spec, _to_host(values, stream), _to_host(lengths, stream)


def start_transfer(
    knowledge: object, options: WireOptions, promised: Description | None = None, stream: Any = None
) -> HostBatch:
    """Begin to bring a batch of knowledge to the host.

    `knowledge` maps keys to torch tensors or numpy arrays [rows, ...], or for ragged keys to `Ragged`, a nested tensor or a list of
    tensors. Raises SchemaError if it is no such mapping, DescriptionChanged if it differs from what was promised.
    """
    if not isinstance(knowledge, Mapping):
        raise SchemaError(f"the model returned a {type(knowledge).__name__}; it must return a dict of key -> tensor")
    if promised is not None and knowledge.keys() != set(promised):
        raise DescriptionChanged(
            f"the keys differ between batches: {sorted(knowledge)} after {sorted(promised)}; every batch holds the same keys"
        )
    keys = list(promised or knowledge)
    if not keys:
        raise SchemaError("the model returned an empty dict; a batch must hold at least one tensor")
    if promised is None:
        asked = set(options.ragged) | (set() if isinstance(options.encodings, str) else set(options.encodings))
        if asked - set(keys):
            raise SchemaError(f"wire or ragged names {sorted(asked - set(keys))}, but the model returned {sorted(keys)}")
    parts = [_part(key, knowledge[key], options, promised[key] if promised is not None else None) for key in keys]
    if len({part.rows for part in parts}) > 1:
        raise SchemaError(
            "the keys of one batch differ in rows: " + ", ".join(f"{part.spec.key!r} has {part.rows}" for part in parts)
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
            # Refused by torch for what is on a device, sparse, conjugated or part of a graph.
            array = tensor.numpy() if carrier is None else tensor.view(carrier).numpy().view(storage)
            if array.shape[1:] != shape or not array.flags.c_contiguous or (rows >= 0 and len(array) != rows):
                return None
            rows = len(array)
            columns[key] = array
    except (KeyError, RuntimeError, TypeError):
        return None
    return HostBatch.there(promised, columns, rows)


@lru_cache(maxsize=8)
def _host_plan(promised: Description) -> list[tuple[str, torch.dtype, tuple[int, ...], Any, Any]] | None:
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
        plan.append((spec.key, dtype, spec.shape, carrier, spec.storage.storage))
    return plan


def _part(key: str, value: Any, options: WireOptions, promised: KeySpec | None) -> _Part:
    where = f"key {key!r}"
    values, lengths = _ragged_parts(value, where)
    if isinstance(values, torch.Tensor):
        name = str(values.dtype).removeprefix("torch.")
        dtype = dtype_named(name, where)
        if values.layout != torch.strided:
            raise SchemaError(f"{where}: a tensor of layout {values.layout} cannot be carried; make it dense")
    elif isinstance(values, np.ndarray):
        dtype = dtype_of_array(values, where)
        values = values.astype(dtype.storage, copy=False)
    else:
        raise SchemaError(f"{where} is a {type(value).__name__}; knowledge is torch tensors or numpy arrays")
    if values.ndim == 0:
        raise SchemaError(f"{where} is a single number; its first dimension must be the batch's rows")
    inner = tuple(values.shape[1:])
    if lengths is None and (key in options.ragged or (promised is not None and promised.ragged)) and inner:
        lengths = np.full(values.shape[0], inner[0], np.int64)
        values = values.reshape(values.shape[0] * inner[0], *inner[1:])
        inner = inner[1:]
    shape = inner if lengths is None else (-1, *inner)
    rows = values.shape[0] if lengths is None else len(lengths)
    if promised is not None:
        if (promised.dtype, promised.shape) != (dtype.name, shape):
            hint = "; rows of varying length must be declared: Teacher(ragged=[...])" if promised.dtype == dtype.name else ""
            raise DescriptionChanged(
                f"{where} was {promised} and became {KeySpec(key=key, dtype=dtype.name, shape=shape)} in the middle of a run{hint}"
            )
        return _Part(spec=promised, rows=rows, values=values, lengths=lengths)
    spec = KeySpec(key=key, dtype=dtype.name, shape=shape, wire=options.encoding(key, dtype.name))
    return _Part(spec=spec, rows=rows, values=values, lengths=lengths)


def _ragged_parts(value: Any, where: str) -> tuple[Any, Any]:
    """Values and lengths; no lengths where rows are all alike."""
    if isinstance(value, Ragged):
        return value.values, _checked_lengths(value, where)
    if isinstance(value, torch.Tensor) and value.is_nested:
        value = list(value.unbind())
    if isinstance(value, (list, tuple)) and value and all(isinstance(row, (torch.Tensor, np.ndarray)) for row in value):
        if any(row.ndim == 0 for row in value):
            return value, None
        lengths = np.array([len(row) for row in value], np.int64)
        try:
            return (torch.cat(list(value)) if isinstance(value[0], torch.Tensor) else np.concatenate(value)), lengths
        except (RuntimeError, TypeError, ValueError) as error:
            raise SchemaError(f"{where}: its ragged rows do not fit together: {error}") from error
    return value, None


def _checked_lengths(ragged: Ragged, where: str) -> Array:
    # Users give torch tensors here too, on any device.
    given: Any = ragged.lengths
    lengths: Any = given.cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    fits = lengths.ndim == 1 and lengths.dtype.kind in "iu" and (not lengths.size or int(lengths.min()) >= 0)
    if not fits or int(lengths.sum()) != len(ragged.values) or (lengths.size and int(lengths.max()) >= 2**31):
        raise SchemaError(f"{where}: lengths must be whole numbers from 0 on that add up to the {len(ragged.values)} elements")
    return np.asarray(lengths, np.int64)


def _cast(values: Any, wire: str) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(getattr(torch, wire))
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[wire].storage)


def _overflowed(values: Any, cast: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return (torch.isinf(cast) & torch.isfinite(values)).any()
    return (np.isinf(cast) & np.isfinite(values)).any()


def _to_host(values: Any, stream: Any) -> Any:
    if not isinstance(values, torch.Tensor):
        return values
    if values.requires_grad or values.is_conj() or values.is_neg() or not values.is_contiguous():
        values = values.detach().resolve_conj().resolve_neg().contiguous()
    if values.device.type == "cpu":
        return values
    if stream is None:
        return values.cpu()
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    stream.wait_stream(torch.cuda.current_stream(values.device))
    with torch.cuda.stream(stream):
        host.copy_(values, non_blocking=True)
    # The allocator must not hand the source's memory to the next forward pass before the copy is done.
    values.record_stream(stream)
    return host


def _numpy_column(started: tuple[KeySpec, Any, Any]) -> Column:
    spec, values, lengths = started
    array = _numpy(values, spec.storage.storage)
    return array if lengths is None else Ragged(array, np.asarray(lengths, np.int64))


def _numpy(values: Any, storage: np.dtype[Any]) -> Array:
    """A host tensor as a numpy view; torch dtypes numpy does not know go through integers of their width."""
    if not isinstance(values, torch.Tensor):
        return np.asarray(values)
    if values.dtype in _SAME_IN_NUMPY:
        return np.asarray(values.numpy())
    carrier = _CARRIERS.get(values.element_size())
    return np.asarray(values.numpy() if carrier is None else values.view(carrier).numpy().view(storage))


def without_torch(value: Any) -> Any:
    """A control message with its torch tensors as numpy arrays."""
    if isinstance(value, torch.Tensor):
        dtype = dtype_named(str(value.dtype).removeprefix("torch."), "control message")
        return _numpy(_to_host(value, None).reshape(-1), dtype.storage).reshape(value.shape)
    if isinstance(value, dict):
        return {key: without_torch(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_torch(item) for item in value]
    return value
