"""Avro's int and long: zigzag, then seven bits a byte, least first (Avro 1.12 specification, "Binary encoding")."""

from __future__ import annotations

from typing import Any


def encode_long(value: int) -> bytes:
    """The bytes of an int or long."""
    value = (value << 1) ^ (value >> 63)
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_long(buffer: Any, position: int) -> tuple[int, int]:
    """The int or long at `position` of a buffer of bytes, and the position behind it.

    Raises IndexError where the buffer ends inside it, ValueError where it is longer than 64 bits.
    """
    byte = buffer[position]
    if byte < 0x80:
        return (byte >> 1) ^ -(byte & 1), position + 1
    value, shift = byte & 0x7F, 7
    while True:
        position += 1
        byte = buffer[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise ValueError("a number longer than 64 bits")
    if value >> 64:
        raise ValueError("a number longer than 64 bits")
    return (value >> 1) ^ -(value & 1), position + 1
