"""Control messages <-> Avro bytes: JSON-like values that may hold tensors and bytes; never pickle.

A value is None, a bool, int, float, str, bytes or numpy array, or a list, tuple (which arrives as a
list) or dict of values with text keys. All but tensors and bytes stands in the message as JSON
text, which every Avro tool can show. Knows no topics.
"""

from __future__ import annotations

import io
import json
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro
import numpy as np

from tutelage.schemas.conversation import Message
from tutelage.schemas.dtypes import dtype_from_array, dtype_from_name
from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.tensor_layout import as_bytes

MAX_DEPTH = 64
_PLAIN_FIELDS = ("id", "session", "reply_to", "asks", "run_id", "seen")


@cache
def control_schema() -> str:
    """The Avro schema of control messages, as JSON text."""
    return files("tutelage.schemas").joinpath("control.avsc").read_text(encoding="utf-8")


@cache
def _parsed() -> Any:
    return fastavro.parse_schema(json.loads(control_schema()))


def encode_control(message: Message, sender: str) -> bytes:
    """Encode a message as an Avro body.

    Args:
        message: The message.
        sender: The name of its sender.

    Raises:
        ConfigurationError: Its value holds something else than such values.
    """
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    plain = _to_plain(message.value, tensors, blobs, 0)
    out = io.BytesIO()
    fields = {name: getattr(message, name) for name in _PLAIN_FIELDS}
    content = {"json": json.dumps(plain, ensure_ascii=False), "tensors": tensors, "blobs": blobs}
    fastavro.schemaless_writer(out, _parsed(), {"sender": sender, **fields, **content})
    return out.getvalue()


def decode_control(body: bytes | memoryview, where: str) -> Message:
    """Decode the message in an Avro body.

    Raises:
        CorruptData: The bytes are not a message. The error names `where`.
    """
    stream = io.BytesIO(body)
    try:
        found: Any = fastavro.schemaless_reader(stream, _parsed(), None)
        if stream.read(1):
            raise ValueError("extra bytes follow the message")
        tensors = [_tensor(tensor, where) for tensor in found["tensors"]]
        value = _from_plain(json.loads(found["json"]), tensors, found["blobs"], 0)
        return Message(value=value, **{name: found[name] for name in _PLAIN_FIELDS})
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        EOFError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise CorruptData(f"{where}: not a control message ({error})") from error


def _to_plain(value: Any, tensors: list[dict[str, Any]], blobs: list[bytes], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ConfigurationError(f"a control message nests deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (bytes, bytearray)):
        blobs.append(bytes(value))
        return {"$bytes": len(blobs) - 1}
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        dtype = dtype_from_array(array, "control message")
        data = as_bytes(array.astype(dtype.numpy_dtype, copy=False)).tobytes()
        tensors.append({"dtype": dtype.name, "shape": list(array.shape), "data": data})
        return {"$tensor": len(tensors) - 1}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item, tensors, blobs, depth + 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {
            f"${key}" if key.startswith("$") else key: _to_plain(item, tensors, blobs, depth + 1)
            for key, item in value.items()
        }
    raise ConfigurationError(
        f"a control message cannot hold a {type(value).__name__}; it holds JSON-like values, bytes "
        "and tensors"
    )


def _tensor(tensor: dict[str, Any], where: str) -> np.ndarray[Any, Any]:
    dtype = dtype_from_name(tensor["dtype"], where)
    return (
        np.frombuffer(tensor["data"], np.uint8)
        .view(dtype.numpy_dtype)
        .reshape(tensor["shape"])
        .copy()
    )


def _from_plain(
    value: Any, tensors: list[np.ndarray[Any, Any]], blobs: list[bytes], depth: int
) -> Any:
    """The value with its tensors and bytes put in; several references share one object."""
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests deeper than {MAX_DEPTH}")
    if isinstance(value, list):
        return [_from_plain(item, tensors, blobs, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["$bytes"]:
        return blobs[value["$bytes"]]
    if list(value) == ["$tensor"]:
        return tensors[value["$tensor"]]
    return {
        key[1:] if key.startswith("$") else key: _from_plain(item, tensors, blobs, depth + 1)
        for key, item in value.items()
    }
