"""The dtypes that a record can hold: dtype name -> numpy dtype, and the casts allowed on the wire.

A dtype has its name in torch (`bfloat16`, `float8_e4m3fn`, ...), which numpy shares if it has the
dtype. Knows no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tutelage.schemas.errors import SchemaError


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """One dtype.

    Args:
        name: Its name in torch.
        numpy_dtype: The numpy dtype of one element, little-endian.
        kind: "bool", "int", "float", "complex" or "opaque". Opaque elements can be carried, but not
            calculated with.
    """

    name: str
    numpy_dtype: np.dtype[Any]
    kind: str

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.numpy_dtype.itemsize


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
    # Numpy has no half-precision complex dtype: a pair of halves has the same bytes.
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
        name: DType(name=name, numpy_dtype=np.dtype(numpy_dtype), kind=kind)
        for name, numpy_dtype, kind in rows
    }


DTYPES: dict[str, DType] = _table()

_BY_NUMPY_DTYPE = {
    dtype.numpy_dtype: dtype for dtype in DTYPES.values() if dtype.name not in ("float4_e2m1fn_x2",)
}

# The model's dtype -> the dtypes it may be cast to on the wire: fewer bytes, the same kind.
WIRE_ENCODINGS = {
    "float64": ("float32", "bfloat16", "float16"),
    "float32": ("bfloat16", "float16"),
}


def dtype_from_name(name: object, where: str) -> DType:
    """Look up a dtype by its name.

    Raises:
        SchemaError: There is no such dtype. The message names `where`.
    """
    found = DTYPES.get(name) if isinstance(name, str) else None
    if found is None:
        raise SchemaError(
            f"{where}: dtype {name!r} is not one that can be carried; known are {', '.join(DTYPES)}"
        )
    return found


def dtype_from_array(array: np.ndarray[Any, Any], where: str) -> DType:
    """Look up the dtype of a numpy array of any byte order.

    Raises:
        SchemaError: The dtype cannot be carried (object, str, ...). The message names `where`.
    """
    key = array.dtype.newbyteorder("<") if array.dtype.byteorder == ">" else array.dtype
    found = _BY_NUMPY_DTYPE.get(key)
    if found is None:
        raise SchemaError(
            f"{where}: numpy dtype {array.dtype} cannot be carried; known are {', '.join(DTYPES)}"
        )
    return found
