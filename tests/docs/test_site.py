"""The site builds without a warning, and its generated pages hold what the code has."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import tutelage

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    """The extension that writes pages from the code."""
    spec = importlib.util.spec_from_file_location("from_code", DOCS / "_extensions" / "from_code.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_every_public_name_is_in_the_reference(from_code: ModuleType) -> None:
    page = (DOCS / "reference" / "api.md").read_text() + from_code.error_reference()
    shown = set(re.findall(r"auto(?:class|function|exception):: tutelage\.(\w+)$", page, re.MULTILINE))
    assert shown == set(tutelage.__all__) - {"__version__"}


def test_every_command_shows_its_help(from_code: ModuleType) -> None:
    page = from_code.commands()
    for command in ("teach", "learn", "record", "replay", "inspect", "watch", "verify", "repair", "demo", "stack up"):
        assert f"## tutelage {command}\n" in page
        assert f"Usage: tutelage {command} " in page


def test_every_exit_code_has_a_meaning(from_code: ModuleType) -> None:
    codes = set(re.findall(r"^\| (\d+) \|", from_code.exit_codes(), re.MULTILINE))
    assert codes == {"0", *from_code._MEANINGS}
    assert {str(kind.exit_code) for kind, _ in from_code._tree(tutelage.TutelageError, 0)} <= codes


def test_limits_are_told_with_their_defaults(from_code: ModuleType) -> None:
    assert "| `keys` | 10,000 | Keys of a schema. |" in from_code.limits()


def test_prose_is_wrapped_at_100_columns() -> None:
    pages = [*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    too_long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        if "_generated" not in page.parts
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1)
        # Tables and figures are one line each, and so are long links, commands and lines of code.
        if len(line) > 100
        and not line.startswith(("|", "!", "<!--", "- [", "["))
        and " " in line
        and not _in_block(page, number)
    ]
    assert not too_long


def _in_block(page: Path, number: int) -> bool:
    fences = [line.lstrip().startswith("```") for line in page.read_text(encoding="utf-8").splitlines()[: number - 1]]
    return bool(sum(fences) % 2)
