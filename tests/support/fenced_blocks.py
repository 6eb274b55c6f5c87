"""Finds the fenced code blocks of the documentation and runs them in order.

HTML comments right above a block, which no reader sees, say how it is run:

    <!-- not run: WHY -->       it is not
    <!-- needs: broker -->      with the session's broker and registry
    <!-- file: NAME -->         it is written to a file of that name, and not run by itself
    <!-- exit: CODE -->         a shell block ends with this code
    <!-- output -->             its lines are what the block before it prints
    <!-- setup ... -->          Python that is run before it
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_FENCE = re.compile(r"^(\s*)(`{3,}|:{3,})\s*(\S*)")
_COMMENT = re.compile(r"<!--\s*(.*?)\s*-->", re.DOTALL)
# Times and rates differ from run to run.
_MEASURED = re.compile(r"\d+\.\d+ s\b")
_TIMEOUT_S = 280.0
RUN_LANGUAGES = ("python", "sh")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: its language, text, first line's number, and the marks above it."""

    page: Path
    line: int
    language: str
    text: str = field(repr=False)
    marks: Mapping[str, str]

    @property
    def where(self) -> str:
        """Where it stands."""
        return f"{self.page}:{self.line}"

    @property
    def needs_broker(self) -> bool:
        """Whether it is run with a broker."""
        return "broker" in self.marks.get("needs", "")


def blocks_of(page: Path) -> list[Block]:
    """A page's blocks, in order."""
    return list(_blocks(page, page.read_text(encoding="utf-8").splitlines()))


def _blocks(page: Path, lines: list[str]) -> Iterator[Block]:
    above: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.lstrip().startswith("<!--"):
            comment = [line]
            while "-->" not in lines[at]:
                at += 1
                comment.append(lines[at])
            above.append("\n".join(comment))
        elif (fence := _FENCE.match(line)) is not None:
            indent, ticks, language = fence.groups()
            first = at + 1
            at = next(end for end in range(first, len(lines)) if lines[end].strip() == ticks)
            text = "\n".join(each.removeprefix(indent) for each in lines[first:at]) + "\n"
            yield Block(page=page, line=first, language=language, text=text, marks=_marks(above))
            above = []
        elif line.strip():
            above = []
        at += 1


def _marks(comments: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for comment in comments:
        match = _COMMENT.fullmatch(comment.strip())
        assert match is not None, comment
        name, _, value = (
            match[1].partition("\n") if match[1].startswith("setup") else match[1].partition(":")
        )
        found[name.strip()] = value.strip() if name.strip() != "setup" else value
    return found


class PageRun:
    """Runs a page's blocks in one folder; its Python blocks share their names."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        here = str(Path(sys.executable).parent)
        self._environment = {
            **environment,
            "PATH": f"{here}:{environment.get('PATH', '')}",
            "COLUMNS": "100",
        }
        self._names: dict[str, Any] = {"__name__": "__docs__"}
        self._printed = ""

    def run(self, block: Block) -> None:
        """Run a block, or do with it what its marks say. AssertionError where it does not do what the page says."""
        if "setup" in block.marks:
            self._python(block.marks["setup"], f"{block.where} (setup)")
        if "file" in block.marks:
            self._folder.joinpath(block.marks["file"]).write_text(block.text, encoding="utf-8")
        elif "output" in block.marks:
            self._compare(block)
        elif block.language == "python":
            self._python(block.text, block.where)
        elif block.language == "sh":
            self._shell(block)

    def _python(self, text: str, where: str) -> None:
        exec(compile(text, where, "exec"), self._names)

    def _shell(self, block: Block) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=self._folder, env=self._environment, timeout=_TIMEOUT_S,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self._printed = done.stdout
        wanted = int(block.marks.get("exit", "0"))
        assert done.returncode == wanted, (
            f"{block.where} exits with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        )

    def _compare(self, block: Block) -> None:
        printed = [_MEASURED.sub("", line).rstrip() for line in self._printed.splitlines()]
        for line in block.text.splitlines():
            assert _MEASURED.sub("", line).rstrip() in printed, (
                f"{block.where}: {line!r} is not printed:\n{self._printed}"
            )


def environment_of(addresses: Any = None) -> dict[str, str]:
    """The environment of a page's commands, with the session's broker and registry if they are given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUTELAGE_")}
    if addresses is None:
        return kept
    return {
        **kept,
        "TUTELAGE_BOOTSTRAP_SERVER": addresses.bootstrap_servers,
        "TUTELAGE_REGISTRY": addresses.registry,
    }
