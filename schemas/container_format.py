"""The parts of an Avro container file: header, block compression, sync markers.

Bytes in, bytes out, as the Avro 1.12 specification says ("Object Container Files"). Knows no files:
`container_writer.py` and `container_reader.py` do the I/O.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.limits import DEFAULT_LIMITS
from tutelage.schemas.varint import decode_long, decode_span, encode_long

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
CodecName = Literal["null", "deflate", "zstandard"]
CODECS = ("null", "deflate", "zstandard")
MAX_HEADER_BYTES = 4 << 20
# Buffers per system call. Linux and macOS accept 1024 (IOV_MAX).
MAX_BUFFERS = 512
# 128 MiB. No writer uses a larger window by default.
_ZSTD_MAX_WINDOW_LOG = 27


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """The header of a container file.

    Args:
        metadata: Key -> value; `avro.schema` and `avro.codec` are among the keys.
        sync: The file's sync marker.
        nbytes: The length of the header.
    """

    metadata: Mapping[str, bytes]
    sync: bytes
    nbytes: int

    @property
    def codec(self) -> str:
        """The codec's name; "null" where the file names none."""
        return self.metadata.get("avro.codec", b"null").decode("utf-8", "replace")


def check_codec(codec: str) -> CodecName:
    """Return the codec's name.

    Raises:
        ConfigurationError: Tutelage does not write this codec.
    """
    if codec not in CODECS:
        raise ConfigurationError(f"codec {codec!r} is not one of {', '.join(CODECS)}")
    return cast("CodecName", codec)


def encode_header(metadata: Mapping[str, bytes]) -> Header:
    """Make a header with a new random sync marker."""
    header = Header(metadata=dict(metadata), sync=os.urandom(SYNC_BYTES), nbytes=0)
    return Header(metadata=header.metadata, sync=header.sync, nbytes=len(header_bytes(header)))


def header_bytes(header: Header) -> bytes:
    """The header as bytes of the file."""
    out = bytearray(MAGIC)
    out += encode_long(len(header.metadata))
    for key, value in header.metadata.items():
        name = key.encode()
        out += encode_long(len(name)) + name + encode_long(len(value)) + value
    return bytes(out + b"\x00" + header.sync)


def decode_header(start: bytes, where: str) -> Header:
    """Decode the header at the start of a file.

    Raises:
        CorruptData: There is no header, or only a part of it. The message names `where`.
    """
    if not start:
        raise CorruptData(
            f"{where} is empty: nothing was written to it, or its writing was cut short"
        )
    if not start.startswith(MAGIC):
        raise CorruptData(
            f"{where} is not an Avro container file: it begins with {start[:4]!r}, not {MAGIC!r}"
        )
    metadata: dict[str, bytes] = {}
    position = len(MAGIC)
    try:
        while True:
            count, position = decode_long(start, position)
            if count == 0:
                break
            if count < 0:
                count = -count
                _, position = decode_long(start, position)
            for _ in range(count):
                first, position = decode_span(start, position)
                key = start[first:position].decode("utf-8")
                first, position = decode_span(start, position)
                metadata[key] = start[first:position]
        sync = start[position : position + SYNC_BYTES]
        if len(sync) < SYNC_BYTES:
            raise IndexError("the sync marker")
    except (IndexError, ValueError) as error:
        raise CorruptData(
            f"{where}: its Avro header is cut or broken at byte {position} ({error})"
        ) from error
    return Header(metadata=metadata, sync=sync, nbytes=position + SYNC_BYTES)


def compress(codec: str, buffers: Sequence[Any]) -> list[bytes]:
    """Compress a block's payload.

    Compressing piece by piece is twice as fast as all at once: neither the input nor the output
    needs one allocation of several megabytes.

    Args:
        codec: "deflate" or "zstandard".
        buffers: The payload, in pieces.

    Returns:
        The compressed payload, in pieces.
    """
    if codec == "deflate":
        deflate = zlib.compressobj(level=6, wbits=-15)
        return [*(deflate.compress(buffer) for buffer in buffers), deflate.flush()]
    pack = zstd.ZstdCompressor(level=3)
    # The frame states the size of its content, as other writers' frames do.
    pack.set_pledged_input_size(sum(memoryview(buffer).nbytes for buffer in buffers))
    return [*(pack.compress(buffer) for buffer in buffers), pack.flush()]


def decompress(
    codec: str, data: Any, where: str, max_bytes: int = DEFAULT_LIMITS.record_bytes
) -> memoryview:
    """Decompress a block's payload.

    Raises:
        CorruptData: It is broken, would exceed `max_bytes`, or its codec is unknown. The message
            names `where`.
    """
    try:
        if codec == "null":
            return memoryview(data)
        if codec == "deflate":
            inflate = zlib.decompressobj(wbits=-15)
            return _whole_payload(inflate.decompress(data, max_bytes), inflate.eof)
        if codec == "zstandard":
            # A frame with a larger window is rejected, because it would take more memory.
            unpack = zstd.ZstdDecompressor(
                options={zstd.DecompressionParameter.window_log_max: _ZSTD_MAX_WINDOW_LOG}
            )
            return _whole_payload(unpack.decompress(data, max_bytes), unpack.eof)
    except (zlib.error, zstd.ZstdError, ValueError) as error:
        raise CorruptData(f"{where} does not decompress with {codec}: {error}") from error
    raise CorruptData(
        f"{where}: Tutelage does not read codec {codec!r}; it reads {', '.join(CODECS)}"
    )


def _whole_payload(payload: bytes, has_ended: bool) -> memoryview:
    if not has_ended:
        raise ValueError("it is cut, or its payload is too large")
    return memoryview(payload)
