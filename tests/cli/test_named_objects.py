"""MODULE:NAME on the command line, and which folders modules are imported from."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = "import sys; from tutelage.cli.named_objects import load_object; print(load_object(sys.argv[1], 'teacher'))"


def looked_up(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """What looking a name up in a folder says."""
    return subprocess.run(
        [sys.executable, "-P", "-c", CODE, text]
        if environment.get("PYTHONSAFEPATH")
        else [sys.executable, "-c", CODE, text],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text("import beside\nnumber = beside.number\n")
    (tmp_path / "beside.py").write_text("number = 7\n")
    (tmp_path / "alone.py").write_text("number = 8\n")
    return tmp_path


@pytest.mark.parametrize("text", ["mine:number", "mine.py:number"])
def test_modules_beside_are_found(folder: Path, text: str) -> None:
    assert looked_up(text, folder).stdout == "7\n"


def test_with_safe_path_this_folder_is_not_searched(folder: Path) -> None:
    """What lies there may be somebody else's."""
    done = looked_up("mine:number", folder, PYTHONSAFEPATH="1")
    assert (
        done.returncode
        and "no module mine among those installed; PYTHONSAFEPATH keeps this folder out"
        in done.stderr
    )
    # A file that is named is meant; what lies beside it is not.
    assert looked_up("alone.py:number", folder, PYTHONSAFEPATH="1").stdout == "8\n"
    done = looked_up("mine.py:number", folder, PYTHONSAFEPATH="1")
    assert "No module named 'beside'" in done.stderr
