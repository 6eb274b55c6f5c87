"""Every block of Python and shell in the documentation is run, or says why it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.fenced_blocks import RUN_LANGUAGES, Block, PageRun, blocks_of, environment_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "deploy/**/*.md")
    for page in ROOT.glob(pattern)
    if "_generated" not in page.parts
)


def runnable(page: Path) -> list[Block]:
    """The blocks that are run, written or compared."""
    return [
        block
        for block in blocks_of(page)
        if "not run" not in block.marks
        and (block.language in RUN_LANGUAGES or "output" in block.marks)
    ]


def pages_to_run() -> list[object]:
    """The pages with something to run, marked by what they need."""
    found: list[object] = []
    for page in PAGES:
        blocks = runnable(page)
        if any("file" not in block.marks for block in blocks):
            marks = [pytest.mark.kafka] if any(block.needs_broker for block in blocks) else []
            found.append(pytest.param(page, id=str(page.relative_to(ROOT)), marks=marks))
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", pages_to_run())
def test_a_page_s_blocks_do_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    blocks = runnable(page)
    needs_broker = any(block.needs_broker for block in blocks)
    environment = environment_of(request.getfixturevalue("addresses") if needs_broker else None)
    for name, value in environment.items():
        if name.startswith("TUTELAGE_"):
            monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    run = PageRun(tmp_path, environment)
    for block in blocks:
        run.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_block_says_its_language_and_a_block_that_is_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        assert block.language, f"{block.where} names no language; `text` is one"
        if "not run" in block.marks:
            assert len(block.marks["not run"]) > 10, f"{block.where} does not say why it is not run"


def test_marks_and_languages_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- exit: 3 -->\n\n```sh\nexit 3\n```\n\nText.\n\n- item:\n\n  ```python\n  x = 1\n  ```\n"
    )
    shell, python = blocks_of(page)
    assert shell.marks == {"exit": "3"} and not python.marks
    assert python.text == "x = 1\n"
    run = PageRun(tmp_path, environment_of())
    run.run(shell)
    with pytest.raises(AssertionError, match="exits with 3"):
        run.run(Block(page=page, line=1, language="sh", text="exit 3", marks={}))
