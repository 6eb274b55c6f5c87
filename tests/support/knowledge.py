"""Hypothesis strategies for descriptions and the columns that fit them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tutelage.schemas.dtypes import DTYPES
from tutelage.schemas.record import Column, Description, KeySpec, Ragged

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
sizes = st.integers(0, 3)


@st.composite
def descriptions(draw: st.DrawFn, max_keys: int = 4) -> Description:
    """Any description: every dtype, zero-size and scalar rows, ragged keys."""
    names = draw(st.lists(keys, min_size=1, max_size=max_keys, unique=True))
    specs = []
    for name in names:
        shape = tuple(draw(st.lists(sizes, max_size=3)))
        if draw(st.booleans()):
            shape = (-1, *shape)
        specs.append(KeySpec(key=name, dtype=draw(st.sampled_from(sorted(DTYPES))), shape=shape))
    return Description(tuple(specs))


def values_of(spec: KeySpec, count: int, random: np.random.Generator) -> np.ndarray[Any, Any]:
    """Random bytes as `count` elements of a key's inner shape; any bit pattern, NaNs included, but bools that are bools."""
    length = count * math.prod(spec.inner) * spec.wire_dtype.itemsize
    raw = random.integers(0, 2 if spec.wire == "bool" else 256, length, np.uint8)
    return raw.view(spec.wire_dtype.numpy_dtype).reshape(count, *spec.inner)


def column_of(spec: KeySpec, rows: int, random: np.random.Generator) -> Column:
    """A random column of so many rows."""
    if not spec.ragged:
        return values_of(spec, rows, random)
    lengths = random.integers(0, 4, rows)
    return Ragged(values_of(spec, int(lengths.sum()), random), lengths)


def same(one: Column, other: Column) -> bool:
    """Whether two columns are equal bit for bit, dtype and shape included."""
    if isinstance(one, Ragged) or isinstance(other, Ragged):
        return (
            isinstance(one, Ragged)
            and isinstance(other, Ragged)
            and np.array_equal(one.lengths, other.lengths)
            and same(one.values, other.values)
        )
    return (
        one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    )
