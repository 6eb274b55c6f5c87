"""The site builds without a warning, and its generated pages hold what the code has."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import generated_docs
from support.generated_docs import DOCS

import tutelage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def from_code() -> ModuleType:
    """The extension that writes pages from the code."""
    return generated_docs.from_code()


@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(DOCS),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "index.html").exists()


def test_every_public_name_is_in_the_reference(from_code: ModuleType) -> None:
    page = (DOCS / "reference" / "api.md").read_text() + from_code.error_reference()
    shown = set(
        re.findall(r"auto(?:class|function|exception):: tutelage\.(\w+)$", page, re.MULTILINE)
    )
    assert shown == set(tutelage.__all__) - {"__version__", "augmentation", "losses"}


def test_every_command_shows_its_help(from_code: ModuleType) -> None:
    page = from_code.commands()
    for command in (
        "teach",
        "learn",
        "record",
        "replay",
        "inspect",
        "watch",
        "verify",
        "repair",
        "demo",
        "stack up",
    ):
        assert f"## tutelage {command}\n" in page
        assert f"Usage: tutelage {command} " in page


def test_every_exit_code_has_a_meaning(from_code: ModuleType) -> None:
    codes = set(re.findall(r"^\| (\d+) \|", from_code.exit_codes(), re.MULTILINE))
    assert codes == {"0", *from_code._MEANINGS}
    assert {str(kind.exit_code) for kind, _ in from_code._tree(tutelage.TutelageError, 0)} <= codes


def test_limits_are_told_with_their_defaults(from_code: ModuleType) -> None:
    assert "| `keys` | 10,000 | Keys of a schema. |" in from_code.limits()


def test_the_table_of_imports_is_what_the_layout_s_test_checks() -> None:
    spec = importlib.util.spec_from_file_location("layout", ROOT / "tests" / "test_layout.py")
    assert spec is not None and spec.loader is not None
    layout = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layout)
    page = (DOCS / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)/` \|.*\| ([^|]+) \|$", page, re.MULTILINE)
    told = {package: {name.strip() for name in names.split(",")} for package, names in rows}
    for package, allowed in layout.MAY_IMPORT.items():
        names = {name or "the front door" for name in allowed}
        everything = {"the front door", "schemas", "transport", "producers", "consumers", "tools"}
        assert told[package] in (
            names or {"nothing of ours"},
            (names - everything) | {"all of these"},
        ), package


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_links_within_the_repository_lead_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    assert not [link for link in links if not (ROOT / link).exists()]


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
    fences = [
        line.lstrip().startswith("```")
        for line in page.read_text(encoding="utf-8").splitlines()[: number - 1]
    ]
    return bool(sum(fences) % 2)
