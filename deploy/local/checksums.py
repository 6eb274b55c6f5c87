"""Compares the files that Maven fetches for the stack with the SHA-256 sums in `checksums.txt`.

A file that is not in the list is not used. Maven compares a file with a checksum from the same
repository, where whoever changes one can change the other. This list was written when the versions
were chosen, and is part of Tutelage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tutelage.deploy.local.programs import StackError

LIST = "checksums.txt"


def read_checksums() -> dict[str, str]:
    """Read the list: file name -> checksum of every file that Tutelage runs."""
    text = files("tutelage.deploy.local").joinpath(LIST).read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: checksum for checksum, name in lines}


def check_files(folder: Path, expected: Mapping[str, str]) -> None:
    """Raise StackError if a folder holds a file that is not expected, or has another checksum."""
    for file in sorted(folder.iterdir()):
        checksum = expected.get(file.name)
        if checksum is None:
            raise StackError(
                f"Maven brought {file.name}, which this version of Tutelage does not know: nothing "
                "of it is used. If your Maven is set up to replace artifacts, exclude these"
            )
        found = sha256(file)
        if found != checksum:
            raise StackError(
                f"{file.name}, as Maven brought it, is not the file that this version of Tutelage "
                f"was tested with (SHA-256 {found}, and it must be {checksum}): nothing of it is "
                "used. Delete it from Maven's local repository and try again; if it comes again, "
                "your Maven repository serves a changed file"
            )


def sha256(file: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
