"""A batch's columns on their way to host memory, in their wire dtypes.

From a CUDA device they are copied in a stream of their own while the next forward pass computes.
On the CPU nothing is copied: columns are views of the model's tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from tutelage.producers.stages.host_arrays import to_host, to_numpy
from tutelage.producers.stages.key_values import KeyValues
from tutelage.schemas.dtypes import DTYPES, WIRE_ENCODINGS
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Column, Description, KeySpec, Ragged


class HostBatch:
    """One batch's columns, or those of several batches that were joined.

    Attributes:
        rows: How many rows it has.
        counts: How many rows each of the joined batches has.
    """

    def __init__(
        self,
        description: Description | None,
        rows: int,
        *,
        columns: Mapping[str, Column] | None = None,
        copies: HostCopies | None = None,
    ) -> None:
        self.rows = rows
        self.counts = [rows]
        self._description = description
        self._columns = columns if columns is not None else {}
        self._copies = copies

    @classmethod
    def begin(cls, keys: Sequence[KeyValues], stream: Any = None) -> HostBatch:
        """Begin to copy a batch to the host, in a CUDA stream if one is given."""
        description = Description(tuple(key.spec for key in keys))
        return cls(description, keys[0].rows, copies=HostCopies(keys, stream))

    @classmethod
    def empty(cls) -> HostBatch:
        """Return a batch without rows, such as `[]` under each key, that shows no description."""
        return cls(None, 0)

    @property
    def described(self) -> bool:
        """Whether the batch shows which keys, dtypes and shapes it has."""
        return self._description is not None

    @property
    def description(self) -> Description:
        """Key -> dtype, row shape and wire dtype; only if the batch is `described`."""
        assert self._description is not None, "a batch without rows may have no description"
        return self._description

    def join(self, counts: Sequence[int]) -> None:
        """Note that this batch joins several, with these numbers of rows."""
        self.counts = list(counts)

    def columns(self) -> Mapping[str, Column]:
        """Return the columns as numpy views, and wait for their copies.

        Raises:
            SchemaError: A value does not fit its wire dtype.
        """
        if self._copies is not None:
            self._columns = self._copies.wait()
            self._copies = None
        return self._columns


class HostCopies:
    """Copies of a batch's keys to the host, in their wire dtypes.

    Args:
        keys: The keys; they are cast, and their copies begin.
        stream: The CUDA stream to copy in; None copies at once.
    """

    def __init__(self, keys: Sequence[KeyValues], stream: Any) -> None:
        self._overflows: list[tuple[KeySpec, Any]] = []
        self._invalid = [
            (key, to_host(key.invalid, stream)) for key in keys if key.invalid is not None
        ]
        self._copies = [self._begin(key, stream) for key in keys]
        self._event = stream.record_event() if stream is not None else None

    def _begin(self, key: KeyValues, stream: Any) -> tuple[KeySpec, Any, Any]:
        values, spec = key.values, key.spec
        if spec.wire != spec.dtype and spec.encoding is None:
            cast = _cast(values, spec.wire)
            self._overflows.append((spec, _overflowed(values, cast)))
            values = cast
        return spec, to_host(values, stream), to_host(key.lengths, stream)

    def wait(self) -> dict[str, Column]:
        """Wait until all copies are complete, and return them as numpy views.

        Raises:
            SchemaError: A value does not fit its wire dtype, or could not be encoded.
        """
        if self._event is not None:
            self._event.synchronize()
            self._event = None
        for spec, overflowed in self._overflows:
            if bool(overflowed):
                raise SchemaError(
                    f"key {spec.key!r}: a finite value does not fit {spec.wire}{_advice(spec)}"
                )
        for key, invalid in self._invalid:
            if bool(invalid):
                raise SchemaError(
                    f"key {key.spec.key!r} in {key.where}: a value is NaN or infinite, or all of a "
                    f"position's logits are -inf; it cannot travel as {key.spec.wire}"
                )
        return {
            spec.key: _numpy_column(spec, values, lengths) for spec, values, lengths in self._copies
        }


def _numpy_column(spec: KeySpec, values: Any, lengths: Any) -> Column:
    array = to_numpy(values, spec.wire_dtype.numpy_dtype)
    if lengths is None:
        return array
    counts = np.asarray(lengths, np.int64)
    used = int(counts.sum())
    # The buffer of an encoded key may be much longer than its rows, which may wait for a record.
    return Ragged(array[:used].copy() if 2 * used < len(array) else array[:used], counts)


def _cast(values: Any, wire: str) -> Any:
    if isinstance(values, torch.Tensor):
        return values.to(getattr(torch, wire))
    with np.errstate(over="ignore"):
        return values.astype(DTYPES[wire].numpy_dtype)


def _overflowed(values: Any, cast: Any) -> Any:
    """Whether a finite value became infinite: a bool, or a tensor that holds one."""
    if isinstance(values, torch.Tensor):
        return (torch.isinf(cast) & torch.isfinite(values)).any()
    return (np.isinf(cast) & np.isfinite(values)).any()


def _advice(spec: KeySpec) -> str:
    """Which dtype of a clearly larger range to send a key in, if its own dtype allows one."""
    if spec.wire != "float16":
        # bfloat16 and float32 have the same range, except for the last step.
        return (
            f"; send it as it is, {spec.dtype}: no smaller dtype holds larger values than "
            f"{spec.wire}"
        )
    largest = float(np.finfo(np.float16).max)
    larger = [name for name in WIRE_ENCODINGS[spec.dtype] if name != spec.wire]
    return (
        f", which ends at {largest:.0f}; send it as {' or '.join(larger)}, which end at 3.4e38, or "
        f"as it is, {spec.dtype}"
    )
