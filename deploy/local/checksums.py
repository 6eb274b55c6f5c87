"""SHA-256 of everything that Maven brings for the stack, as `checksums.txt` lists them: what differs is not used.

Maven compares a file with the checksum that lies beside it in the same repository. Whoever can change the one can change the other; this
list was written when the versions were chosen, and is part of Tutelage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from tutelage.deploy.local.programs import StackError

LIST = "checksums.txt"


def listed() -> dict[str, str]:
    """The checksums by the file's name, of all that Tutelage itself runs."""
    text = files("tutelage.deploy.local").joinpath(LIST).read_text(encoding="utf-8")
    lines = (line.split() for line in text.splitlines() if line and not line.startswith("#"))
    return {name: checksum for checksum, name in lines}


def check(folder: Path, expected: Mapping[str, str]) -> None:
    """StackError if a file of a folder is not one of `expected`, or holds something else."""
    for file in sorted(folder.iterdir()):
        checksum = expected.get(file.name)
        if checksum is None:
            raise StackError(
                f"Maven brought {file.name}, which this version of Tutelage does not know: nothing of it is used. If your Maven is set up "
                "to replace artifacts, it must not for these"
            )
        found = sha256(file)
        if found != checksum:
            raise StackError(
                f"{file.name}, as Maven brought it, is not the file that this version of Tutelage was tested with (SHA-256 {found}, and it "
                f"must be {checksum}): nothing of it is used. Delete it from Maven's local repository and try again; if it comes again, "
                "your Maven repository gives a changed file"
            )


def sha256(file: Path) -> str:
    """The checksum of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
