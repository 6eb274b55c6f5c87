"""Encoded records -> Kafka message values: the frame with the schema's id, then the Avro body."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tutelage.schemas.codec import Encoded
from tutelage.schemas.framing import frame
from tutelage.schemas.record import Array

_NO_BUFFER: Array = np.empty(0, np.uint8)


class MessagePacker:
    """Packs records into memory that it reuses. `pack` is safe in any thread.

    Fresh pages cost as much as the copy itself. The Kafka client copies each value once more, so
    its memory is free again when `write` of the sink returns.
    """

    def __init__(self) -> None:
        self._frame = b""
        self._free: list[Array] = []

    def use_schema(self, schema_id: int) -> None:
        """Put this id in the frame of each message. Must be called before `pack`."""
        self._frame = frame(schema_id)

    def pack(self, encoded: Encoded) -> Array:
        """Return the message value, as a uint8 array."""
        size = len(self._frame) + encoded.nbytes
        try:
            buffer = self._free.pop()
        except IndexError:
            buffer = _NO_BUFFER
        if buffer.nbytes < size:
            buffer = np.empty(size, np.uint8)
        return _concatenate_into(buffer[:size], (self._frame, *encoded.buffers))

    def release(self, packed: Array) -> None:
        """Take back the memory of a message value that is no longer in use."""
        self._free.append(packed if packed.base is None else packed.base)


def _concatenate_into(target: Array, buffers: Iterable[Any]) -> Array:
    """Copy the buffers into the target, one after the other; numpy releases the GIL for that."""
    at = 0
    for buffer in buffers:
        part = buffer if isinstance(buffer, np.ndarray) else np.frombuffer(buffer, np.uint8)
        target[at : at + part.nbytes] = part
        at += part.nbytes
    return target
