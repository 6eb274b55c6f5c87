"""Every dtype of torch that carries data travels; what does not is named."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tutelage.consumers.stages.torch_view import ColumnView, tensor_bytes
from tutelage.producers.stages.transfer import start_transfer
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.dtypes import DTYPES, dtype_from_array, dtype_from_name
from tutelage.schemas.errors import SchemaError

# Quantized dtypes have no meaning without their scale, sub-byte shells and bits no operations at all.
WITHOUT_DATA = (
    "quint",
    "qint",
    "bits",
    "bit",
    "uint1",
    "uint2",
    "uint3",
    "uint4",
    "uint5",
    "uint6",
    "uint7",
)
SUB_BYTE = ("int1", "int2", "int3", "int4", "int5", "int6", "int7")


def test_no_dtype_of_torch_is_forgotten() -> None:
    for name in dir(torch):
        dtype = getattr(torch, name)
        if not isinstance(dtype, torch.dtype) or name != str(dtype).removeprefix("torch."):
            continue
        left_out = name in SUB_BYTE or any(
            name == shell or name.startswith(("quint", "qint", "bits")) for shell in WITHOUT_DATA
        )
        assert (name in DTYPES) != left_out, name


@pytest.mark.filterwarnings("ignore:.*support is experimental")
@pytest.mark.parametrize("name", [name for name in DTYPES if hasattr(torch, name)])
@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (3,), (0, 2)])
def test_a_tensor_of_every_dtype_goes_to_numpy_and_back_bit_for_bit(
    name: str, shape: tuple[int, ...]
) -> None:
    count = int(np.prod(shape)) * DTYPES[name].itemsize
    raw = torch.from_numpy((np.arange(count) % (2 if name == "bool" else 256)).astype(np.uint8))
    dtype = getattr(torch, name)
    tensor = (raw.view(dtype) if count else torch.empty(0, dtype=dtype)).reshape(shape)
    batch = start_transfer({"k": tensor}, WireOptions(dtypes="", encoded={}, ragged=frozenset()))
    column = batch.columns()["k"]
    assert isinstance(column, np.ndarray)
    assert column.dtype == DTYPES[name].numpy_dtype
    again = ColumnView(name).tensor(column)
    assert again.dtype == dtype
    assert again.shape == tensor.shape
    assert tensor_bytes(again).tobytes() == raw.numpy().tobytes()


def test_big_endian_arrays_are_known_by_their_dtype() -> None:
    assert dtype_from_array(np.arange(3, dtype=">f4"), "here").name == "float32"


@pytest.mark.parametrize(
    "array", [np.array(["a"]), np.array([object()]), np.array(["2020-01-01"], "M8[D]")]
)
def test_arrays_that_are_no_tensors_are_refused(array: np.ndarray) -> None:
    with pytest.raises(SchemaError, match="here"):
        dtype_from_array(array, "here")


@pytest.mark.parametrize("name", ["float99", "", None, ["int8"]])
def test_names_of_no_dtype_are_refused(name: object) -> None:
    with pytest.raises(SchemaError, match="here"):
        dtype_from_name(name, "here")
