"""Writes deploy/local/checksums.txt: `make checksums`, after a version of the stack was changed.

Maven fetches everything into an empty local repository, so that no local file is listed. Before you
commit the changes, compare them with the checksums that the projects publish.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tutelage.deploy.local import programs
from tutelage.deploy.local.checksums import LIST, sha256

_HEAD = """\
# SHA-256 of the files that Maven fetches for `tutelage stack`. No other file is used.
# `make checksums` writes this list.
"""


def main() -> None:
    """Fetch the files and write the list."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAVEN_OPTS"] = (
            f"{os.environ.get('MAVEN_OPTS', '')} -Dmaven.repo.local={folder}/repository"
        )
        wanted = {
            "kafka": ["copy-dependencies", "-DincludeScope=runtime"],
            "registry": ["copy", f"-Dartifact={programs.REGISTRY}"],
        }
        for name, goal in wanted.items():
            programs.fetch(Path(folder) / name, goal, name)
        found = {
            file.name: sha256(file) for name in wanted for file in (Path(folder) / name).iterdir()
        }
    lines = "".join(f"{checksum}  {name}\n" for name, checksum in sorted(found.items()))
    (Path(__file__).parent / "local" / LIST).write_text(_HEAD + lines, encoding="utf-8")


if __name__ == "__main__":
    main()
