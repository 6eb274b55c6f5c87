"""Avro's int and long, and the length before a `bytes` or `string` value.

A number is encoded zigzag, then seven bits a byte, least significant first (Avro 1.12
specification, "Binary encoding").
"""

from __future__ import annotations

from typing import Any


def encode_long(value: int) -> bytes:
    """Encode an int or long."""
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
    """Decode the int or long at `position` of a buffer of bytes.

    Returns:
        The number, and the position after it.

    Raises:
        IndexError: The buffer ends inside the number.
        ValueError: The number is longer than 64 bits.
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


def decode_span(buffer: Any, position: int) -> tuple[int, int]:
    """Find the content of the `bytes` or `string` value at `position` of a buffer of bytes.

    Returns:
        Where the content starts and stops. The next value begins where it stops.

    Raises:
        IndexError: The buffer ends inside the length.
        ValueError: The length is negative, or more than the buffer holds.
    """
    length, position = decode_long(buffer, position)
    if length < 0 or position + length > len(buffer):
        raise ValueError(f"{length} bytes announced where {len(buffer) - position} are left")
    return position, position + length
