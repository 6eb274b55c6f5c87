"""The package as others get it: installed in an empty virtual environment and used from another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(900)
def test_an_installed_package_teaches_and_learns_from_another_folder(tmp_path: Path) -> None:
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        if os.environ.get("CI"):
            pytest.fail("CI must run this test: `make install` puts uv into .venv")
        pytest.skip("needs uv in the virtual environment, as `make install` puts it there")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # A copy, so that building leaves nothing in the tree.
    source = tmp_path / "source"
    left_out = shutil.ignore_patterns(".git", ".venv", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, source, ignore=left_out)
    run(str(uv), "venv", "-q", "--python", sys.executable, "venv")
    constraints = str(ROOT / "constraints.txt")
    run(str(uv), "pip", "install", "-q", "--python", "venv/bin/python", "-c", constraints, str(source))
    tutelage = str(tmp_path / "venv/bin/tutelage")
    assert "teach" in run(tutelage, "--help")
    for index in (1, 2):
        run(tutelage, "teach", f"tutelage.examples.toy.lessons:teacher{index}", "--out", f"t{index}.avro")
    learned = json.loads(run(tutelage, "learn", "t1.avro", "t2.avro", "--merge", "result=mean", "--json"))
    assert learned["rows"] == 1000
    stub = "import tutelage.producers, tutelage.consumers, tutelage.deploy.local; print(tutelage.producers.__file__)"
    assert str(tmp_path) in run("venv/bin/python", "-c", stub)
