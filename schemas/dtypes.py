"""The dtypes that travel: their names, their numpy storage and what they can be cast to.

A dtype is known by its name in torch (`bfloat16`, `float8_e4m3fn`, ...), which is also numpy's where both have it. Names
come in, numpy dtypes go out; torch itself is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tutelage.schemas.errors import SchemaError


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """One dtype: its `name` and the numpy dtype that stores it, little-endian.

    `storage` has the width of one element. `kind` is one of "bool", "int", "float", "complex" or "opaque"; opaque
    elements can be carried but not calculated with.
    """

    name: str
    storage: np.dtype[Any]
    kind: str

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.storage.itemsize


def _table() -> dict[str, DType]:
    rows: list[tuple[str, Any, str]] = [("bool", np.bool_, "bool")]
    rows += [
        (f"{sign}int{bits}", f"<{sign[:1] or 'i'}{bits // 8}", "int")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    ]
    rows += [("float16", "<f2", "float"), ("float32", "<f4", "float"), ("float64", "<f8", "float")]
    rows += [("complex64", "<c8", "complex"), ("complex128", "<c16", "complex")]
    eights = (
        "float8_e4m3fn",
        "float8_e5m2",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
    )
    rows += [(name, getattr(ml_dtypes, name), "float") for name in ("bfloat16", *eights)]
    # Numpy has no half complex numbers: a pair of halves has the same bytes.
    rows.append(("complex32", np.dtype([("real", "<f2"), ("imag", "<f2")]), "complex"))
    rows.append(
        (
            "bcomplex32",
            np.dtype([("real", ml_dtypes.bfloat16), ("imag", ml_dtypes.bfloat16)]),
            "complex",
        )
    )
    # Torch packs two float4 values into one byte, and so does the wire.
    rows.append(("float4_e2m1fn_x2", np.uint8, "opaque"))
    return {
        name: DType(name=name, storage=np.dtype(storage), kind=kind) for name, storage, kind in rows
    }


DTYPES: dict[str, DType] = _table()

_BY_STORAGE = {
    dtype.storage: dtype for dtype in DTYPES.values() if dtype.name not in ("float4_e2m1fn_x2",)
}

# What a key may be cast to for the way, by the dtype the model gave: always to fewer bytes, never to another kind.
WIRE_ENCODINGS = {
    "float64": ("float32", "bfloat16", "float16"),
    "float32": ("bfloat16", "float16"),
}


def dtype_named(name: object, where: str) -> DType:
    """The dtype of that name; SchemaError naming `where` if there is none."""
    found = DTYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise SchemaError(
            f"{where}: dtype {name!r} is not one that can be carried; known are {', '.join(DTYPES)}"
        )
    return found


def dtype_of_array(array: np.ndarray[Any, Any], where: str) -> DType:
    """The dtype of a numpy array, whatever its byte order; SchemaError if it cannot be carried (object, str, ...)."""
    storage = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    found = _BY_STORAGE.get(storage)
    if found is None:
        raise SchemaError(
            f"{where}: numpy dtype {array.dtype} cannot be carried; known are {', '.join(DTYPES)}"
        )
    return found
