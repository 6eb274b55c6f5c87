"""Control messages <-> Avro bytes: JSON-like values, with tensors and bytes in them; never pickle.

Values are None, bool, int, float, str, bytes, numpy arrays, and lists, tuples (which arrive as lists) and dicts with text keys of
these. Strings in the JSON text keep the message readable for any Avro tool.
"""

from __future__ import annotations

import io
import json
from functools import cache
from importlib.resources import files
from typing import Any

import fastavro
import numpy as np

from tutelage.schemas.codec import as_bytes
from tutelage.schemas.conversation import Message
from tutelage.schemas.dtypes import dtype_named, dtype_of_array
from tutelage.schemas.errors import ConfigurationError, CorruptData

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
    """The Avro body of a message; ConfigurationError if its value holds what cannot travel."""
    tensors: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    plain = _to_plain(message.value, tensors, blobs, 0)
    out = io.BytesIO()
    fields = {name: getattr(message, name) for name in _PLAIN_FIELDS}
    content = {"json": json.dumps(plain, ensure_ascii=False), "tensors": tensors, "blobs": blobs}
    fastavro.schemaless_writer(out, _parsed(), {"sender": sender, **fields, **content})
    return out.getvalue()


def decode_control(body: bytes | memoryview, where: str) -> Message:
    """The message in an Avro body; CorruptData naming `where` if it is none."""
    stream = io.BytesIO(body)
    try:
        found: Any = fastavro.schemaless_reader(stream, _parsed(), None)
        if stream.read(1):
            raise ValueError("bytes are left behind the message")
        tensors = [_tensor(tensor, where) for tensor in found["tensors"]]
        value = _from_plain(json.loads(found["json"]), tensors, found["blobs"])
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
        dtype = dtype_of_array(array, "control message")
        data = as_bytes(array.astype(dtype.storage, copy=False)).tobytes()
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
        f"a control message cannot hold a {type(value).__name__}; it holds JSON-like values, bytes and tensors"
    )


def _tensor(tensor: dict[str, Any], where: str) -> np.ndarray[Any, Any]:
    dtype = dtype_named(tensor["dtype"], where)
    return (
        np.frombuffer(tensor["data"], np.uint8).view(dtype.storage).reshape(tensor["shape"]).copy()
    )


def _from_plain(value: Any, tensors: list[np.ndarray[Any, Any]], blobs: list[bytes]) -> Any:
    """The value, with its tensors and bytes in their places; one that is named more than once is the same one each time."""
    if isinstance(value, list):
        return [_from_plain(item, tensors, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    if list(value) == ["$bytes"]:
        return blobs[value["$bytes"]]
    if list(value) == ["$tensor"]:
        return tensors[value["$tensor"]]
    return {
        key[1:] if key.startswith("$") else key: _from_plain(item, tensors, blobs)
        for key, item in value.items()
    }
