"""Programs and sources that Go's module proxy has: installed once, under their versions, into the user's cache."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_TIMEOUT_S = 900


class GoError(RuntimeError):
    """Go is not there, or could not do it; the message says what Go said."""


def cache() -> Path:
    """The folder in the user's cache for what tests fetch."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"


def go_program(versioned: str) -> Path:
    """The program of a package@version, built if need be."""
    package, _, version = versioned.partition("@")
    name = next(part for part in reversed(package.split("/")) if not part[1:].isdigit())
    folder = cache() / f"{name}-{version}"
    program = folder / name
    if not program.exists():
        # Built beside, then moved: who comes at the same time never runs half a program.
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as staged:
            _go("install", versioned, GOBIN=staged)
            folder.mkdir(exist_ok=True)
            os.replace(Path(staged) / name, program)
    return program


def go_sources(versioned: str) -> Path:
    """The folder with the files of a module@version, in Go's own cache."""
    found: dict[str, str] = json.loads(_go("mod", "download", "-json", versioned))
    return Path(found["Dir"])


def _go(*command: str, **environment: str) -> str:
    go = shutil.which("go") or "/usr/local/go/bin/go"
    try:
        with tempfile.TemporaryDirectory() as outside_of_modules:
            done = subprocess.run(
                [go, *command], env={**os.environ, **environment}, cwd=outside_of_modules,
                capture_output=True, text=True, timeout=_TIMEOUT_S, check=False,
            )  # fmt: skip
    except FileNotFoundError as error:
        raise GoError("there is no Go on this machine") from error
    except subprocess.TimeoutExpired as error:
        raise GoError(f"go {' '.join(command)} did not end within {_TIMEOUT_S} s") from error
    if done.returncode:
        raise GoError(f"go {' '.join(command)}: {(done.stderr or done.stdout).strip()[-500:]}")
    return done.stdout
