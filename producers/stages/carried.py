"""What a model gave for a key -> plain tensors or arrays whose memory holds their values; anything else is refused by name.

Torch and numpy have many kinds of tensors that look alike and hold more, less or nothing of what they show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor

from tutelage.schemas.dtypes import DType, dtype_from_array, dtype_from_name
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.record import Array, KeySpec, Ragged

# Of numpy's own, those that are only other views of the same values.
_PLAIN_ARRAYS = (np.ndarray, np.matrix, np.memmap, np.recarray)


def plain(value: Any, where: str) -> tuple[Any, DType]:
    """A dense tensor or array of one known dtype, as torch.Tensor or np.ndarray. SchemaError naming `where` for anything else."""
    if isinstance(value, torch.Tensor):
        tensor = _plain_tensor(value, where)
        return tensor, dtype_from_name(str(tensor.dtype).removeprefix("torch."), where)
    if isinstance(value, np.ndarray):
        array = _plain_array(value, where)
        dtype = dtype_from_array(array, where)
        return array.astype(dtype.numpy_dtype, copy=False), dtype
    raise SchemaError(f"{where} {_no_tensor(value)}")


def _plain_tensor(tensor: torch.Tensor, where: str) -> torch.Tensor:
    why = _why_not_plain(tensor)
    if why is not None:
        raise SchemaError(f"{where} {why}")
    if type(tensor) is not torch.Tensor:
        tensor = tensor.as_subclass(torch.Tensor)
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.untyped_storage().nbytes() < tensor.nbytes and tensor.is_contiguous():
        raise SchemaError(
            f"{where} is a tensor whose memory has been freed (sharded parameters are, for one); gather it or clone it before"
        )
    return tensor


def _why_not_plain(tensor: torch.Tensor) -> str | None:
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        return "is a tensor inside a transform of torch.func (vmap, grad, ...); give what the transform returns"
    if isinstance(tensor, FakeTensor):
        return "is a FakeTensor, which has a shape and no values; run the model on real tensors"
    if hasattr(tensor, "full_tensor"):
        return "is a DTensor, spread over several processes; give tensor.full_tensor(), which all of them call"
    if (
        type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        and not tensor.is_nested
    ):
        return (
            f"is a {type(tensor).__name__}, a tensor of a class that keeps its values in its own way; give a plain tensor made of it, and what "
            "else it holds (a mask, a scale) as a key of its own"
        )
    if tensor.device.type == "meta":
        return "is on the meta device: it has a shape and no values; run the model on a real device"
    if tensor.is_quantized:
        return "is a quantized tensor; give tensor.dequantize(), or tensor.int_repr() and its scale as keys of their own"
    if tensor.layout is not torch.strided:
        return f": a tensor of layout {tensor.layout} cannot be carried; make it dense"
    return None


def _plain_array(array: np.ndarray[Any, Any], where: str) -> Array:
    if isinstance(array, np.ma.MaskedArray):
        raise SchemaError(
            f"{where} is a numpy masked array, and its mask would be lost; fill it, array.filled(value), and give the mask as a key of its own"
        )
    if type(array) not in _PLAIN_ARRAYS:
        raise SchemaError(
            f"{where} is a {type(array).__name__}, an array of a class that may hold more than its values; give np.asarray(value) if they "
            "are all there is"
        )
    return np.asarray(array)


def _no_tensor(value: Any) -> str:
    kind = type(value).__name__
    pick = "return only the keys that are to be written: lambda batch: {'logits': model(**batch).logits}"
    if value is None:
        return f"is None; {pick}"
    if isinstance(value, (list, tuple)):
        return f"is a {kind} of {type(value[0]).__name__ if value else 'nothing'}; knowledge is torch tensors or numpy arrays; {pick}"
    return f"is a {kind}; knowledge is torch tensors or numpy arrays; {pick}"


def ragged_rows(
    value: Any, key: str, *, declared: bool, promised: KeySpec | None
) -> tuple[Any, Any] | None:
    """Values and lengths of a key whose rows differ in length; None if the value is none of the forms of one.

    The forms are `Ragged`, a nested tensor, and a list or tuple of one tensor a row where the key was declared ragged: of an undeclared
    one nobody knows whether its items are rows, layers or columns.
    """
    where = f"key {key!r}"
    if isinstance(value, Ragged):
        values, _ = plain(value.values, where)
        if values.ndim == 0:
            raise SchemaError(
                f"{where}: the values of a Ragged are a single number; they must be the rows, one behind the other"
            )
        return values, _checked_lengths(value, len(values), where)
    if isinstance(value, torch.Tensor):
        if not value.is_nested or torch._C._functorch.is_functorch_wrapped_tensor(value):
            return None
        return _joined_rows(list(value.unbind()), where, promised)
    if not isinstance(value, (list, tuple)) or hasattr(value, "_fields"):
        return None
    if not value:
        return _joined_rows([], where, promised) if declared and promised is not None else None
    if not all(isinstance(row, (torch.Tensor, np.ndarray)) for row in value):
        return None
    if not declared:
        raise SchemaError(
            f"{where} is a {type(value).__name__} of {len(value)} tensors, which may be rows, layers or columns. Rows of different length are "
            f"declared: Teacher(..., ragged_keys=[{key!r}]), or given as Ragged(values, lengths); layers are stacked: torch.stack(list(value), 1)"
        )
    return _joined_rows(list(value), where, promised)


def _joined_rows(rows: list[Any], where: str, promised: KeySpec | None) -> tuple[Any, Any]:
    found = [plain(row, f"{where}, row {index},") for index, row in enumerate(rows)]
    if any(row.ndim == 0 for row, _ in found):
        raise SchemaError(
            f"{where}: a ragged row is a single number; each must be a tensor of its elements"
        )
    lengths = np.array([len(row) for row, _ in found], np.int64)
    # An empty row has nothing to add, whatever its dtype, device and shape: torch.tensor([]) is of float32.
    filled = [(row, dtype) for row, dtype in found if len(row)]
    if not filled:
        return _no_elements(found, promised), lengths
    names = sorted({dtype.name for _, dtype in filled})
    if len(names) > 1:
        raise SchemaError(
            f"{where}: its ragged rows are of {' and '.join(names)}; make them one dtype, none is converted here"
        )
    kept = [row for row, _ in filled]
    places = sorted({str(row.device) if isinstance(row, torch.Tensor) else "numpy" for row in kept})
    if len(places) > 1:
        raise SchemaError(
            f"{where}: its ragged rows lie in different places: {', '.join(places)}; bring them to one"
        )
    inner = {tuple(row.shape[1:]) for row in kept}
    if len(inner) > 1:
        raise SchemaError(
            f"{where}: its ragged rows do not fit together: {', '.join(str(list(shape)) for shape in sorted(inner, key=len))} behind the first "
            "dimension, the only one that may differ"
        )
    return (torch.cat(kept) if isinstance(kept[0], torch.Tensor) else np.concatenate(kept)), lengths


def _no_elements(found: list[tuple[Any, DType]], promised: KeySpec | None) -> Any:
    """The values of rows that are all empty: of the promised dtype and shape, or of the first row's."""
    if promised is not None:
        storage = _storage(promised.dtype)
        return np.empty((0, *promised.inner), storage)
    if not found:
        raise AssertionError(
            "no rows without a promise are a batch of no rows, which has no columns"
        )
    return found[0][0][:0]


def _storage(name: str) -> Any:
    return dtype_from_name(name, "key").numpy_dtype


def _checked_lengths(ragged: Ragged, elements: int, where: str) -> Array:
    # Users give torch tensors here too, on any device.
    given: Any = ragged.lengths
    lengths: Any = given.cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    fits = (
        lengths.ndim == 1
        and lengths.dtype.kind in "iu"
        and (not lengths.size or int(lengths.min()) >= 0)
    )
    if not fits or int(lengths.sum()) != elements or (lengths.size and int(lengths.max()) >= 2**31):
        raise SchemaError(
            f"{where}: lengths must be whole numbers from 0 on that add up to the {elements} elements"
        )
    return np.asarray(lengths, np.int64)
