"""Values that try to act on a terminal, a file that is full of them, and the proof that what was printed is harmless."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from tutelage.schemas.codec import Codec
from tutelage.schemas.container_writer import ContainerWriter
from tutelage.schemas.record import Description, End, KeySpec, RecordHead, Stream

FORGED = "error: forged"
#: Escape sequences and commands to the terminal (7 and 8 bits), writing from right to left, line breaks of every kind, marks of layout
#: libraries, formulas, and half a character.
BAD = (
    f"\x1b[2J\x1b]0;owned\x07\x1b]8;;http://evil\x1b\\x\x9b31m\x85\x90q\u202elive\u2066\n{FORGED}\r{FORGED}\r\n{FORGED}\x0b{FORGED}"
    f"\u2028{FORGED}\u2029[link=http://evil][bold]x[/nothing][/] :smile: $\\frac{{ \x00\x08\x7f"
)
#: The same for names of files, which hold neither slashes nor zeros, but bytes that are no text.
BAD_NAME = f"\x1b[2J\n{FORGED}\r\x9b\u202e[bold][\\nothing]\udcff.avro"
KEYS = (BAD, f"[/]{BAD}", "$x$", "k" * 50_000, "\u00a0")
# What rich sends to a terminal: colors, and how it draws its progress bar again.
_STYLE = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|2K|1A)|\r(?!error)")

STREAM = Stream(
    run_id=f"run{BAD}", teacher=f"teacher{BAD}", revision=f"revision{BAD}", inputs_fingerprint=f"inputs{BAD}", version=f"version{BAD}",
    passes=1, partitions=1, rows_per_record=2, created=-2e11,
)  # fmt: skip
DESCRIPTION = Description(tuple(KeySpec(key=key, dtype="float32", shape=(2,)) for key in KEYS))


def hostile_file(
    folder: Path, name: str = BAD_NAME, *, whole: bool = True, stream: Stream = STREAM
) -> Path:
    """A file whose every text is hostile; without its end where it is not to be whole."""
    path = folder / name
    writer = ContainerWriter.create(path, stream, DESCRIPTION, "null")
    codec = Codec(DESCRIPTION)
    head = RecordHead(run_id=stream.run_id, pass_index=0, sequence=0, rows=2, generation=0)
    columns = {key: [np.ones((2, 2), np.float32)] for key in KEYS}
    writer.append(writer.pack(codec.encode(head, columns)))
    end = dataclasses.replace(head, sequence=1, rows=0, end=End(records=1, rows=2))
    writer.append(writer.pack(codec.encode(end, {})))
    writer.finish()
    if not whole:
        path.write_bytes(path.read_bytes()[:-40])
    return path


def assert_harmless(text: str, *, styled: bool = False) -> None:
    """AssertionError if a text holds anything that a terminal acts on, or a line that pretends to be ours.

    With `styled`, the text may have colors and a progress bar: rich puts them where the output is a terminal.
    """
    if styled:
        text = _STYLE.sub("", text)
    odd = sorted({one for one in text if not one.isprintable() and one != "\n"})
    assert not odd, f"{odd} in {text!r}"
    for line in text.split("\n"):
        assert not line.startswith(FORGED), text
