"""The package as others get it: installed by the Dockerfile's own steps into an empty folder, and used from another one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def instructions(stage: int) -> list[tuple[str, str]]:
    """The instructions of one of the Dockerfile's stages, continued lines joined."""
    text = re.sub(
        r"\\\n",
        " ",
        "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")),
    )
    found: list[list[tuple[str, str]]] = []
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            found.append([])
        if name:
            found[-1].append((name, rest.strip()))
    return found[stage]


def test_the_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    hadolint = str(Path(sys.executable).parent / "hadolint")
    command = [hadolint, "--no-color", "--failure-threshold", "style"]
    done = subprocess.run(
        [*command, str(DOCKERFILE)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    bad = tmp_path / "Dockerfile"
    bad.write_text(re.sub(r"FROM python:\S+\n", "FROM python\n", DOCKERFILE.read_text()))
    assert subprocess.run(
        [*command, str(bad)], capture_output=True, timeout=60, check=False
    ).returncode


def test_the_image_is_small_in_rights() -> None:
    last = dict(instructions(1))
    assert last["USER"] == "10001:10001" and last["ENTRYPOINT"] == '["tutelage"]'
    assert all(
        re.search(r":\d\S*@sha256:[0-9a-f]{64}", rest)
        for stage in (0, 1)
        for name, rest in instructions(stage)
        if name == "FROM"
    )


@pytest.mark.timeout(900)
def test_the_dockerfile_s_steps_install_a_package_that_teaches_and_learns_from_another_folder(
    tmp_path: Path,
) -> None:
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        if os.environ.get("CI"):
            pytest.fail("CI must run this test: `make install` puts uv into .venv")
        pytest.skip("needs uv in the virtual environment, as `make install` puts it there")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    environment["PATH"] = f"{uv.parent}:{environment['PATH']}"

    def run(*command: str, cwd: Path = tmp_path) -> str:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=800,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def here(step: str) -> str:
        return step.replace("/opt/tutelage", str(tmp_path / "opt")).replace(
            "/wheel", str(tmp_path / "wheel")
        )

    # The build stage: what it copies, and its steps, with this folder in place of the image's root.
    source = tmp_path / "source"
    source.mkdir()
    for name, rest in instructions(0):
        if name == "COPY":
            *copied, target = rest.split()
            for item in copied:
                if (ROOT / item).is_dir():
                    shutil.copytree(
                        ROOT / item, source / target, ignore=shutil.ignore_patterns("__pycache__")
                    )
                else:
                    shutil.copy(ROOT / item, source / target)
        elif name == "RUN":
            # The uv that is here, with its cache: a second download of five gigabytes would show nothing.
            step = here(rest).replace("--no-cache ", "").replace("--compile-bytecode ", "")
            run(
                "bash",
                "-euc",
                re.sub(r"&& python -m pip install .* -r uv\.txt", "", step),
                cwd=source,
            )
    # Of the last stage, what puts the package there; users and folders are the image's.
    (install,) = (rest for name, rest in instructions(1) if name == "RUN")
    run("bash", "-euc", here(install).partition(" && rm ")[0])
    tutelage = str(tmp_path / "opt/bin/tutelage")
    assert "teach" in run(tutelage, "--help")
    for index in (1, 2):
        run(
            tutelage,
            "teach",
            f"tutelage.examples.toy.lessons:teacher{index}",
            "--out",
            f"t{index}.avro",
        )
    learned = json.loads(
        run(tutelage, "learn", "t1.avro", "t2.avro", "--merge", "result=mean", "--json")
    )
    assert learned["rows"] == 1000
    run(
        str(tmp_path / "opt/bin/python"),
        "-c",
        "from tutelage.deploy.local.checksums import read_checksums; assert len(read_checksums()) > 40",
    )
    stub = "import tutelage, tutelage.deploy.local, textual; print(tutelage.__file__)"
    assert str(tmp_path) in run(str(tmp_path / "opt/bin/python"), "-c", stub)
