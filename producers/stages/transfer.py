"""What a model returned -> checked batches on their way to the host.

Knows nothing of devices' threads: the caller says in which CUDA stream to copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from tutelage.producers.stages.encode_vectors import compute_logits
from tutelage.producers.stages.host_arrays import can_be_viewed, view_dtype
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.join import join_batches
from tutelage.producers.stages.key_values import check_key
from tutelage.producers.stages.projected import Projected
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Column, Description


def start_transfer(
    knowledge: object, options: WireOptions, promised: Description | None = None, stream: Any = None
) -> HostBatch:
    """Check a batch of knowledge and begin to copy it to the host.

    Args:
        knowledge: Key -> torch tensor or numpy array `[rows, ...]`. A ragged key may also be a
            `Ragged` or a nested tensor, or if it was declared, a list of one tensor per row. Keys
            with an encoding are `KeyValues` already.
        options: How keys travel, as the user asked.
        promised: The description that the batch must match; None for the first batch.
        stream: The CUDA stream to copy in; None copies at once.

    Raises:
        SchemaError: The knowledge is not such a mapping.
        DescriptionChanged: It differs from what was promised.
    """
    if not isinstance(knowledge, Mapping):
        raise SchemaError(
            f"the model returned a {type(knowledge).__name__}; it must return a dict of key -> "
            "tensor [rows, ...]: lambda batch: {'logits': model(batch)}"
        )
    for key in knowledge:
        if not isinstance(key, str):
            raise SchemaError(f"the model returned a key that is not text: {key!r}; keys are texts")
    if promised is not None and knowledge.keys() != set(promised):
        raise DescriptionChanged(
            f"the keys differ between batches: {sorted(knowledge, key=str)} after "
            f"{sorted(promised)}; every batch holds the same keys"
        )
    names = list(promised or knowledge)
    if not names:
        raise SchemaError("the model returned an empty dict; a batch must hold at least one tensor")
    if promised is None:
        unknown = sorted(options.named - set(names))
        if unknown:
            raise SchemaError(
                f"wire or ragged_keys names {unknown}, but the model returned {sorted(names)}"
            )
        if all(isinstance(value, (list, tuple)) and not value for value in knowledge.values()):
            # No rows, and nothing that shows a dtype or shape.
            return HostBatch.empty()
    keys = [
        check_key(
            name,
            _values_of(name, knowledge[name], options),
            options,
            promised[name] if promised is not None else None,
        )
        for name in names
    ]
    if len({key.rows for key in keys}) > 1:
        raise SchemaError(
            "the keys of one batch differ in rows: "
            + ", ".join(f"{key.spec.key!r} has {key.rows}" for key in keys)
        )
    return HostBatch.begin(keys, stream)


def _values_of(key: str, value: Any, options: WireOptions) -> Any:
    """A key's values, computed first where the model left that to us."""
    if isinstance(value, Projected):
        return compute_logits(key, value, declared=key in options.ragged)
    return value


def start_transfers(
    group: Sequence[object], options: WireOptions, promised: Description | None, stream: Any
) -> list[HostBatch]:
    """As `start_transfer`, for a group of batches; small batches are joined into one."""
    if promised is not None and len(group) > 1:
        joined = join_batches(group, promised)
        if joined is not None:
            columns, counts = joined
            batch = _start(columns, options, promised, stream)
            batch.join(counts)
            return [batch]
    return [_start(knowledge, options, promised, stream) for knowledge in group]


def _start(
    knowledge: object, options: WireOptions, promised: Description | None, stream: Any
) -> HostBatch:
    if promised is not None and stream is None:
        batch = _view_as_promised(knowledge, promised)
        if batch is not None:
            return batch
    return start_transfer(knowledge, options, promised, stream)


def _view_as_promised(knowledge: Any, promised: Description) -> HostBatch | None:
    """A fast path: view a batch that is in host memory and exactly as promised; else None."""
    plan = _view_plan(promised)
    if plan is None or type(knowledge) is not dict or len(knowledge) != len(plan):
        return None
    columns: dict[str, Column] = {}
    rows = -1
    try:
        for key, dtype, shape, integers, storage in plan:
            tensor = knowledge[key]
            if type(tensor) is not torch.Tensor or tensor.dtype is not dtype:
                return None
            # torch raises here for tensors that are on a device, sparse, conjugated or part of a
            # graph. Freed memory has no address.
            if not tensor.data_ptr() and tensor.numel():
                return None
            array = (
                tensor.numpy() if integers is None else tensor.view(integers).numpy().view(storage)
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
    return HostBatch(promised, rows, columns=columns)


@lru_cache(maxsize=8)
def _view_plan(
    promised: Description,
) -> list[tuple[str, torch.dtype, tuple[int, ...], Any, Any]] | None:
    """What `_view_as_promised` compares for each key; None if batches need more than a view."""
    if any(spec.ragged or spec.wire != spec.dtype for spec in promised.specs):
        return None
    plan = []
    for spec in promised.specs:
        dtype = getattr(torch, spec.dtype, None)
        if not isinstance(dtype, torch.dtype) or not can_be_viewed(dtype):
            return None
        plan.append((spec.key, dtype, spec.shape, view_dtype(dtype), spec.wire_dtype.numpy_dtype))
    return plan
