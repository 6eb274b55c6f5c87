"""What a model returned -> the same with the keys that have an encoding encoded, on their device.

This comes right behind the model's call, before anything is kept or copied: logits over a
vocabulary are too large to exist twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch

from tutelage.producers.stages.key_values import KeyValues, describe_key, is_int8, plain_key
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.projected import Projected, Vectors
from tutelage.producers.stages.uniforms import uniforms
from tutelage.producers.stages.vector_encoding import (
    EncodedVectors,
    encode_int8,
    encode_sampled,
    encode_topk,
)
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.encodings import Int8, Sampled, TopK
from tutelage.schemas.errors import DescriptionChanged, SchemaError
from tutelage.schemas.record import Array, Description, KeySpec, Ragged


def encode_vectors(
    knowledge: Any, options: WireOptions, promised: Description | None, place: Place
) -> Any:
    """Encode the keys of a batch that have an encoding.

    Args:
        knowledge: What the model returned.
        options: How keys travel, as the user asked.
        promised: The description that the batch must match; None for the first batch.
        place: The batch's place in the run, which decides what is drawn.

    Returns:
        The knowledge, with `KeyValues` in place of the values of encoded keys. What is no mapping
        is returned as it is; the transfer reports it.

    Raises:
        SchemaError: The values of such a key cannot be encoded.
        DescriptionChanged: They differ from what was promised.
    """
    if not isinstance(knowledge, Mapping):
        return knowledge
    changed: dict[str, Any] = {}
    with torch.no_grad():
        for key in options.encoded.keys() & knowledge.keys():
            known = promised.get(key) if promised is not None else None
            changed[key] = _encode_key(key, knowledge, options, known, place)
    return {**knowledge, **changed}


def _encode_key(
    key: str,
    knowledge: Mapping[str, Any],
    options: WireOptions,
    promised: KeySpec | None,
    place: Place,
) -> Any:
    """One key encoded, as `KeyValues`; unchanged if there is nothing to encode."""
    value, mask = knowledge[key], options.encoded[key].mask
    hidden = value.hidden if isinstance(value, Projected) else value
    if isinstance(hidden, (list, tuple)) and not hidden:
        return [] if promised is None else _no_rows(promised)
    if isinstance(options.encoded[key], Int8) and is_int8(value):
        if mask is not None:
            raise SchemaError(f"key {key!r} is int8 and travels as it is; it cannot have a mask")
        return value
    declared = mask is not None or key in options.ragged
    given = _vectors(key, value, declared=declared, promised=promised)
    spec = describe_key(key, given.dtype, given.shape, options, promised)
    kept = None if mask is None else _kept(key, mask, knowledge, given.counts)
    encoded = _encoded(spec, given.vectors, kept, given.counts, place)
    values = encoded.values
    lengths: Any = encoded.lengths
    if lengths is None:
        lengths = given.lengths if kept is None else kept.counts
        elements = given.rows if lengths is None else int(lengths.sum())
        values = values.reshape(elements, *spec.inner[:-1], values.shape[-1])
    return KeyValues(
        spec=spec,
        rows=given.rows,
        values=values,
        lengths=lengths,
        invalid=encoded.invalid,
        where=str(place),
    )


def _no_rows(promised: KeySpec) -> KeyValues:
    """An encoded key without rows."""
    stored = promised.stored
    return KeyValues(
        spec=promised,
        rows=0,
        values=np.empty((0, *stored.inner), np.uint8),
        lengths=np.empty(0, np.int64) if stored.ragged else None,
    )


def _encoded(
    spec: KeySpec, vectors: Vectors, kept: Kept | None, counts: Array, place: Place
) -> EncodedVectors:
    """Encode vectors.

    Args:
        spec: The key.
        vectors: All of them.
        kept: Those to encode; None for all.
        counts: How many vectors each row has, int64 `[rows]`.
        place: The batch's place in the run.
    """
    indices = None if kept is None else torch.from_numpy(kept.indices).to(vectors.device)
    if isinstance(spec.encoding, TopK):
        return encode_topk(vectors, spec.encoding, indices)
    if isinstance(spec.encoding, Int8):
        return encode_int8(vectors, indices)
    assert isinstance(spec.encoding, Sampled), "there are three encodings"
    # Made on the device: a copy of so many numbers would wait for the forward pass.
    rows = torch.from_numpy(counts).to(vectors.device)
    row = torch.repeat_interleave(rows, output_size=len(vectors))
    position = torch.arange(len(vectors), device=vectors.device) - (rows.cumsum(0) - rows)[row]
    if kept is not None:
        row, position = row[indices], position[indices]
        rows = torch.from_numpy(kept.counts).to(vectors.device)
    uniform = uniforms(place, spec.key, len(counts), row, position)
    return encode_sampled(vectors, spec.encoding, indices, rows, uniform)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Given:
    """What a model gave for a key that is encoded.

    Args:
        vectors: Its vectors, row after row.
        dtype: The dtype of them, or of the hidden states they are computed from.
        shape: The shape of a row; -1 first if rows differ in length.
        rows: How many rows.
        lengths: The rows' lengths, int64 `[rows]`, if they differ.
    """

    vectors: Vectors
    dtype: str
    shape: tuple[int, ...]
    rows: int
    lengths: Array | None

    @property
    def counts(self) -> Array:
        """How many vectors each row has, int64 `[rows]`."""
        inner = self.shape[:-1] if self.lengths is None else self.shape[1:-1]
        lengths = np.ones(self.rows, np.int64) if self.lengths is None else self.lengths
        return lengths * prod(inner)


def _vectors(key: str, value: Any, *, declared: bool, promised: KeySpec | None) -> Given:
    """Find the vectors in what a model returned. Tensors are not copied, whatever their strides.

    Args:
        key: The key.
        value: What the model returned for it.
        declared: Whether rows are sent without padding, or without the positions that a mask drops.
        promised: The description that the key must match; None before the first batch.

    Raises:
        SchemaError: There are no vectors.
        DescriptionChanged: Rows were ragged before.
    """
    head, size = None, 0
    if isinstance(value, Projected):
        # The promise is about the logits, which are computed later.
        head, size, value = value.head, value.vocabulary, value.hidden
    dense = isinstance(value, (torch.Tensor, np.ndarray)) and not getattr(value, "is_nested", False)
    if dense and not declared and promised is not None and promised.ragged:
        raise DescriptionChanged(
            f"key {key!r} was {promised}, with a mask or rows of varying length, and is dense now; "
            "continue the run with the same mask, or with ragged_keys"
        )
    plain = plain_key(
        key, value, declared=declared and not dense, promised=None if head else promised
    )
    values, lengths = plain.values, plain.lengths
    if not isinstance(values, torch.Tensor):
        values = torch.from_numpy(np.array(values, np.float32))
    outer = values.shape[1:-1]
    if dense and declared and values.ndim > 2:
        lengths, outer = np.full(len(values), values.shape[1], np.int64), outer[1:]
    elif values.ndim < 2 or (dense and declared):
        raise SchemaError(
            f"key {key!r} has rows of shape {list(values.shape[1:])}; they must be [..., size of a "
            "vector] to be encoded, and [T, size of a vector] to have a mask"
        )
    size = size or values.shape[-1]
    return Given(
        vectors=Vectors(values, head, size, f"key {key!r}"),
        dtype=plain.dtype.name,
        shape=(*outer, size) if lengths is None else (-1, *outer, size),
        rows=plain.rows,
        lengths=None if lengths is None else np.asarray(lengths, np.int64),
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Kept:
    """The vectors that a mask keeps.

    Args:
        indices: Their numbers, int64.
        counts: How many each row keeps, int64 `[rows]`.
    """

    indices: Array
    counts: Array


def _kept(
    key: str,
    mask: str | Callable[[Mapping[str, Any]], Any],
    knowledge: Mapping[str, Any],
    counts: Array,
) -> Kept:
    """The vectors that a mask keeps, of rows with so many each."""
    name = f"the mask of key {key!r}"
    if callable(mask):
        value = mask(knowledge)
    elif mask not in knowledge:
        raise SchemaError(f"{name} is key {mask!r}, which the model did not return")
    else:
        value = knowledge[mask]
    flags, lengths = _flags(value, counts, name)
    if not np.array_equal(lengths, counts):
        raise SchemaError(
            f"{name} has rows of {_few(lengths)} elements, and the key rows of {_few(counts)} "
            "positions; it must have one element for each position: [rows, T]"
        )
    owners = np.repeat(np.arange(len(counts)), counts)
    kept = np.bincount(owners[flags], minlength=len(counts))
    return Kept(indices=np.flatnonzero(flags), counts=kept.astype(np.int64))


def _flags(value: Any, counts: Array, name: str) -> tuple[Array, Array]:
    """The elements of a mask, bool, and how many each of its rows has."""
    flat: Any
    if isinstance(value, torch.Tensor) and value.is_nested:
        value = list(value.unbind())
    if isinstance(value, Ragged):
        flat, lengths = value.values, np.asarray(value.lengths)
    elif isinstance(value, (list, tuple)):
        rows = [torch.as_tensor(row).reshape(-1) for row in value]
        flat = torch.cat(rows) if rows else torch.zeros(0)
        lengths = np.array([len(row) for row in rows], np.int64)
    elif isinstance(value, (torch.Tensor, np.ndarray)) and value.ndim in (1, 2):
        flat, lengths = value, counts
        if value.ndim == 2:
            lengths = np.full(len(value), value.shape[1])
        elif len(value) != int(counts.sum()):
            lengths = np.array([len(value)])
    else:
        shape = list(value.shape) if hasattr(value, "shape") else type(value).__name__
        raise SchemaError(f"{name} is {shape}; it must be a tensor [rows, T]")
    return torch.as_tensor(flat).ne(0).reshape(-1).cpu().numpy(), lengths


def _few(numbers: Array) -> str:
    """The first of some numbers, for a message."""
    shown = ", ".join(map(str, numbers[:3].tolist()))
    return f"{shown}, ..." if len(numbers) > 3 else shown or "no"


@torch.no_grad()
def compute_logits(key: str, value: Projected, *, declared: bool) -> Any:
    """Return the logits of a key that has no encoding.

    Args:
        key: The key.
        value: What the model returned for it.
        declared: Whether its rows differ in length.

    Returns:
        Logits `[rows, ..., vocabulary]` in the dtype that the head gives; `Ragged` if rows differ.
    """
    given = _vectors(key, value, declared=declared, promised=None)
    vectors = given.vectors
    first = vectors.chunk(0, 0)[0]
    logits = first.new_empty((len(vectors), vectors.size))
    for start, stop in vectors.chunks():
        logits[start:stop] = vectors.chunk(start, stop)[0]
    inner = given.shape if given.lengths is None else given.shape[1:]
    rows = given.rows if given.lengths is None else int(given.lengths.sum())
    logits = logits.reshape(rows, *inner)
    if given.lengths is None:
        return logits
    return Ragged(logits, given.lengths)  # type: ignore[arg-type]
