"""The parts of an Avro container file: its header, its blocks, its codecs (Avro 1.12 specification, "Object Container Files").

Pure: bytes in, bytes out. `container_writer.py` and `container_reader.py` put them on disk and take them off it.
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
from tutelage.schemas.varint import decode_long, encode_long

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

MAGIC = b"Obj\x01"
SYNC_BYTES = 16
CodecName = Literal["null", "deflate", "zstandard"]
CODECS = ("null", "deflate", "zstandard")
MAX_HEADER_BYTES = 4 << 20
# Given to one system call at once; Linux takes 1024 (IOV_MAX), macOS too.
MAX_BUFFERS = 512


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A container file's header: metadata (avro.schema and avro.codec in it), sync marker, and its length in bytes."""

    metadata: Mapping[str, bytes]
    sync: bytes
    nbytes: int

    @property
    def codec(self) -> str:
        """The codec's name; "null" where the file names none."""
        return self.metadata.get("avro.codec", b"null").decode("utf-8", "replace")


def checked_codec(codec: str) -> CodecName:
    """The codec itself; ConfigurationError if Tutelage does not write it."""
    if codec not in CODECS:
        raise ConfigurationError(f"codec {codec!r} is not one of {', '.join(CODECS)}")
    return cast("CodecName", codec)


def encode_header(metadata: Mapping[str, bytes]) -> Header:
    """A header with a new random sync marker."""
    header = Header(metadata=dict(metadata), sync=os.urandom(SYNC_BYTES), nbytes=0)
    return Header(metadata=header.metadata, sync=header.sync, nbytes=len(header_bytes(header)))


def header_bytes(header: Header) -> bytes:
    """The header as it stands in the file."""
    out = bytearray(MAGIC)
    out += encode_long(len(header.metadata))
    for key, value in header.metadata.items():
        name = key.encode()
        out += encode_long(len(name)) + name + encode_long(len(value)) + value
    return bytes(out + b"\x00" + header.sync)


def decode_header(start: bytes, where: str) -> Header:
    """The header at the start of a file; CorruptData naming `where` if there is none, or not all of it."""
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
                key, position = _bytes_at(start, position)
                value, position = _bytes_at(start, position)
                metadata[key.decode("utf-8")] = value
        sync = start[position : position + SYNC_BYTES]
        if len(sync) < SYNC_BYTES:
            raise IndexError("the sync marker")
    except (IndexError, ValueError) as error:
        raise CorruptData(
            f"{where}: its Avro header is cut or broken at byte {position} ({error})"
        ) from error
    return Header(metadata=metadata, sync=sync, nbytes=position + SYNC_BYTES)


def _bytes_at(buffer: bytes, position: int) -> tuple[bytes, int]:
    length, position = decode_long(buffer, position)
    if length < 0 or position + length > len(buffer):
        raise IndexError(f"{length} bytes announced")
    return buffer[position : position + length], position + length


def compress(codec: str, buffers: Sequence[Any]) -> list[bytes]:
    """A block's payload, given and returned in pieces, in a codec that is not null.

    Piece by piece is twice as fast as all at once: neither what goes in nor what comes out needs megabytes of fresh memory in one piece.
    """
    if codec == "deflate":
        deflate = zlib.compressobj(level=6, wbits=-15)
        return [*(deflate.compress(buffer) for buffer in buffers), deflate.flush()]
    pack = zstd.ZstdCompressor(level=3)
    # The frame says how much it holds, as other writers' do.
    pack.set_pledged_input_size(sum(memoryview(buffer).nbytes for buffer in buffers))
    return [*(pack.compress(buffer) for buffer in buffers), pack.flush()]


def decompress(
    codec: str, data: Any, where: str, most: int = DEFAULT_LIMITS.record_bytes
) -> memoryview:
    """A block's payload; CorruptData naming `where` if it is broken or would have more bytes than `most`."""
    try:
        if codec == "null":
            return memoryview(data)
        if codec == "deflate":
            inflate = zlib.decompressobj(wbits=-15)
            return _whole(inflate.decompress(data, most), inflate.eof)
        if codec == "zstandard":
            # Windows beyond 128 MiB are no writer's default; a frame that asks for more memory is refused.
            unpack = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
            return _whole(unpack.decompress(data, most), unpack.eof)
    except (zlib.error, zstd.ZstdError, ValueError) as error:
        raise CorruptData(f"{where} does not decompress with {codec}: {error}") from error
    raise CorruptData(f"{where}: codec {codec!r} is not read; Tutelage reads {', '.join(CODECS)}")


def _whole(payload: bytes, ended: bool) -> memoryview:
    if not ended:
        raise ValueError("it is cut, or its payload is too large")
    return memoryview(payload)
