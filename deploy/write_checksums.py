"""Writes deploy/local/checksums.txt: `make checksums`, after a version in pom.xml or programs.py was changed.

Maven fetches everything into an empty local repository, so that no local file is listed. Compare the
changes with the checksums that the projects publish before you commit them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tutelage.deploy.local import programs
from tutelage.deploy.local.checksums import LIST, sha256

_HEAD = """\
# SHA-256 of what Maven brings for `tutelage stack`; nothing else is used. `make checksums` writes this file.
"""


def main() -> None:
    """Fetch and list."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MAVEN_OPTS"] = (
            f"{os.environ.get('MAVEN_OPTS', '')} -Dmaven.repo.local={folder}/repository"
        )
        wanted = {
            "kafka": ["copy-dependencies", "-DincludeScope=runtime"],
            "registry": ["copy", f"-Dartifact={programs.REGISTRY}"],
        }
        for name, goal in wanted.items():
            programs.bring(Path(folder) / name, goal, name)
        found = {
            file.name: sha256(file) for name in wanted for file in (Path(folder) / name).iterdir()
        }
    lines = "".join(f"{checksum}  {name}\n" for name, checksum in sorted(found.items()))
    (Path(__file__).parent / "local" / LIST).write_text(_HEAD + lines, encoding="utf-8")


if __name__ == "__main__":
    main()
