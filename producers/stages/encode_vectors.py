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

from tutelage.producers.stages.key_values import KeyValues, PlainKey, describe_key, plain_key
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
from tutelage.schemas.encodings import Sampled, TopK
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Array, Description, KeySpec, Ragged


def encode_vectors(
    knowledge: Any, options: WireOptions, promised: Description | None, place: Place
) -> Any:
    """Encode the keys of a batch that have an encoding, and compute logits that are not there yet.

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
    for key, value in knowledge.items():
        if key in options.encoded:
            known = promised.get(key) if promised is not None else None
            with torch.no_grad():
                changed[key] = _encode_key(key, knowledge, options, known, place)
        elif isinstance(value, Projected):
            with torch.no_grad():
                changed[key] = _computed(key, value, declared=key in options.ragged)
    return {**knowledge, **changed} if changed else knowledge


def _encode_key(
    key: str,
    knowledge: Mapping[str, Any],
    options: WireOptions,
    promised: KeySpec | None,
    place: Place,
) -> Any:
    """One key encoded, as `KeyValues`."""
    mask = options.encoded[key].mask
    declared = mask is not None or key in options.ragged
    plain, vectors = _vectors(key, knowledge[key], declared=declared, promised=promised)
    shape = (*plain.shape[:-1], vectors.size)
    spec = describe_key(key, plain.dtype.name, shape, options, promised)
    if spec.encoding is None:
        # An int8 tensor that is to travel as int8 does so as it is.
        return knowledge[key]
    # How many vectors each row has.
    counts = np.full(plain.rows, prod(spec.inner[:-1]), np.int64)
    if plain.lengths is not None:
        counts *= np.asarray(plain.lengths, np.int64)
    kept = None
    if mask is not None:
        if len(spec.inner) > 1:
            raise SchemaError(f"key {key!r}: only rows [T, size of a vector] can have a mask")
        kept = _kept(key, mask, knowledge, counts)
    encoded = _encoded(spec, vectors, kept, counts, place)
    values = encoded.values
    lengths: Any = encoded.lengths
    if lengths is None:
        # A vector of each element of a row, or several.
        per_element = max(1, prod(spec.inner[:-1])) if spec.ragged else 1
        elements = len(values) // per_element if spec.ragged else plain.rows
        values = values.reshape(elements, *spec.inner[:-1], values.shape[-1])
        stored = counts if kept is None else kept.counts
        lengths = stored // per_element if spec.ragged else None
    return KeyValues(
        spec=spec, rows=plain.rows, values=values, lengths=lengths, invalid=encoded.invalid
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
    if not isinstance(spec.encoding, Sampled):
        return encode_int8(vectors, indices)
    owners = np.repeat(np.arange(len(counts)), counts)
    within = np.arange(len(owners)) - (np.cumsum(counts) - counts)[owners]
    if kept is not None:
        owners, within, counts = owners[kept.indices], within[kept.indices], kept.counts
    row, position, rows = (
        torch.from_numpy(each).to(vectors.device) for each in (owners, within, counts)
    )
    uniform = uniforms(place, spec.key, len(counts), row, position)
    return encode_sampled(vectors, spec.encoding, indices, rows, uniform)


def _vectors(
    key: str, value: Any, *, declared: bool, promised: KeySpec | None
) -> tuple[PlainKey, Vectors]:
    """What a model returned for a key, and its vectors one behind the other."""
    head, size = None, None
    if isinstance(value, Projected):
        # The promise is about the logits, which are computed later.
        declared = declared or (promised is not None and promised.ragged)
        head, size, value, promised = value.head, value.vocabulary, value.hidden, None
    declared = declared or (promised is not None and promised.ragged)
    plain = plain_key(key, value, declared=declared, promised=promised)
    values = plain.values
    if not isinstance(values, torch.Tensor):
        values = torch.from_numpy(np.array(values, np.float32))
    if values.ndim < 2:
        raise SchemaError(
            f"key {key!r}: rows of shape {list(plain.shape)} have no vectors to encode; they must "
            "be [..., size of a vector]"
        )
    flat = values.reshape(prod(values.shape[:-1]), values.shape[-1])
    return plain, Vectors(flat, head, size or values.shape[-1], f"key {key!r}")


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
    if isinstance(value, Ragged):
        value = value.values
    elif isinstance(value, (list, tuple)):
        value = torch.cat([torch.as_tensor(row).reshape(-1) for row in value])
    flags = torch.as_tensor(value).ne(0).reshape(-1).cpu().numpy()
    if len(flags) != int(counts.sum()):
        raise SchemaError(
            f"{name} has {len(flags)} elements for {int(counts.sum())} positions; it must have one "
            "for each: [rows, T]"
        )
    owners = np.repeat(np.arange(len(counts)), counts)
    kept = np.bincount(owners[flags], minlength=len(counts))
    return Kept(indices=np.flatnonzero(flags), counts=kept.astype(np.int64))


def _computed(key: str, value: Projected, *, declared: bool) -> Any:
    """The logits of a key that has no encoding, in the dtype of its hidden states."""
    plain, vectors = _vectors(key, value, declared=declared, promised=None)
    hidden = plain.values
    logits = torch.empty((len(vectors), vectors.size), dtype=vectors.dtype, device=vectors.device)
    for start, stop in vectors.chunks():
        logits[start:stop] = vectors.chunk(start, stop)[0]
    logits = logits.reshape(*hidden.shape[:-1], vectors.size)
    return logits if plain.lengths is None else Ragged(logits, plain.lengths)  # type: ignore[arg-type]
