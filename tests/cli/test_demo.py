"""The demo: whole with a broker of its own; and what it does on a machine that has no Maven to fetch one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.commands import invoke

from tutelage.cli.demo import OFFLINE_ONLY

RESULTS = ("results.md", "results.json", "results.png")


def digests(table: str) -> list[str]:
    """The digests of the toy's table."""
    return [
        word
        for word in table.replace("│", " ").split()
        if len(word) == 32 and set(word) <= set("0123456789abcdef")
    ]


def test_without_maven_the_demo_says_what_is_missing_and_runs_its_offline_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    done = invoke("demo", "--seeds", "2", "--out-folder", str(tmp_path / "out"))
    assert done.code == OFFLINE_ONLY
    assert "there is no mvn on this machine: install it" in done.err
    assert done.err.splitlines()[-1].startswith("only the offline part ran")
    assert len(digests(done.out)) == 1
    assert "Merged against few labels" in done.out
    assert all((tmp_path / "out" / name).stat().st_size for name in RESULTS)


@pytest.mark.kafka
@pytest.mark.usefixtures("stack")
def test_the_demo_shows_all_modes_with_one_digest(tmp_path: Path) -> None:
    done = invoke("demo", "--seeds", "2", "--out-folder", str(tmp_path / "out"))
    assert done.code == 0, done.err
    found = digests(done.out)
    assert len(found) == 4
    assert len(set(found)) == 1
    assert "the same accuracies, seed by seed" in done.out
    assert all((tmp_path / "out" / name).stat().st_size for name in RESULTS)
