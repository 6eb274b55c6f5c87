"""What others made and Tutelage runs: packages, jars and images are known by their checksums, and changed ones are refused."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from support.jars import JARS

from deploy import pin_images
from tutelage.deploy.local import StackError, checksums, programs

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"([a-z0-9-]+(?:\.[a-z0-9-]+)*)==(\S+)")
UV = Path(sys.executable).parent / "uv"


def constraints(name: str = "constraints.txt") -> dict[str, tuple[set[str], list[str]]]:
    """The versions (several where Pythons differ) and the hashes of each package in a file."""
    lines = [
        line
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    found: dict[str, tuple[set[str], list[str]]] = {}
    for entry in re.split(r"\n(?=\S)", "\n".join(lines).strip()):
        first, *rest = entry.split("\\\n")
        match = PINNED.match(first)
        assert match is not None, first
        assert all(re.fullmatch(r"    --hash=sha256:[0-9a-f]{64} ?", line) for line in rest), entry
        versions, hashes = found.get(match[1], (set(), []))
        found[match[1]] = (versions | {match[2]}, hashes + rest)
    return found


def test_each_constraint_has_versions_hashes_and_no_address() -> None:
    for name in ("constraints.txt", ".github/tools.txt"):
        assert "://" not in (ROOT / name).read_text(encoding="utf-8")
        assert all(hashes for _, hashes in constraints(name).values()), name
    known = constraints()
    assert len(known) > 100 and all(hashes for _, hashes in known.values())
    # What comes as one file a platform has many of them: those of other machines too.
    assert all(len(known[name][1]) > 10 for name in ("torch", "numpy", "confluent-kafka", "uv"))


def test_what_is_installed_here_is_what_the_constraints_say() -> None:
    known = constraints()
    # The virtual environment brings pip, of whatever version Python has.
    installed = {
        re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in distributions()
    }
    assert "torch" in installed
    unknown = {name for name in installed if name not in known} - {"tutelage", "pip"}
    # An environment that a person keeps may hold more; one that CI has made does not.
    assert not (unknown and os.environ.get("CI")), unknown
    assert {
        name: version
        for name, version in installed.items()
        if name in known and version not in known[name][0]
    } == {}


def wheel(folder: Path, said: str) -> Path:
    """A package of one line."""
    file = folder / "brought-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as made:
        texts = {
            "brought.py": said,
            "brought-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n",
            "brought-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = ""
        for name, text in texts.items():
            made.writestr(name, text)
            digest = (
                base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest())
                .rstrip(b"=")
                .decode()
            )
            record += f"{name},sha256={digest},{len(text)}\n"
        made.writestr("brought-1.0.dist-info/RECORD", record + "brought-1.0.dist-info/RECORD,,\n")
    return file


@pytest.mark.skipif(
    not UV.exists() and not os.environ.get("CI"),
    reason="needs uv in the virtual environment, as `make install` puts it there",
)
def test_a_changed_package_is_refused_as_make_and_the_image_install(tmp_path: Path) -> None:
    # The flags that the two use; without them this test would show nothing about them.
    makefile, dockerfile = (
        (ROOT / "Makefile").read_text(),
        (ROOT / "deploy" / "Dockerfile").read_text(),
    )
    assert (
        "uv pip install -q --python $(BIN)/python --require-hashes -r constraints.txt" in makefile
    )
    assert "-c constraints.txt -r pyproject.toml" in dockerfile
    for installs in re.findall(r"pip install .*", makefile + dockerfile):
        assert re.search(
            r"constraints\.txt|--require-hashes|--no-index|--no-deps --require-build-hashes",
            installs,
        ), installs
    good = hashlib.sha256(wheel(tmp_path, "said = 'good'").read_bytes()).hexdigest()
    (tmp_path / "constraints.txt").write_text(f"brought==1.0 \\\n    --hash=sha256:{good}\n")
    (tmp_path / "wanted.txt").write_text("brought>=1\n")
    ways = {
        "make": ["--require-hashes", "-r", "constraints.txt"],
        "image": ["-c", "constraints.txt", "-r", "wanted.txt"],
    }
    for changed in (False, True):
        wheel(tmp_path, "said = 'changed'" if changed else "said = 'good'")
        for name, flags in ways.items():
            command = [
                str(UV),
                "pip",
                "install",
                "--no-cache",
                "--no-index",
                "--find-links",
                ".",
                "--target",
                f"{name}-{changed}",
            ]
            done = subprocess.run(
                [*command, *flags],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert bool(done.returncode) == changed, done.stderr
            assert (tmp_path / f"{name}-{changed}" / "brought.py").exists() != changed
            assert not changed or "Hash mismatch" in done.stderr


class Maven:
    """A `mvn` that brings the files of a folder; what it was asked for is kept."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.brings = folder / "brings"
        self.asked = folder / "asked"
        self.cache = folder / "cache" / "tutelage"
        self.brings.mkdir()
        (folder / "bin").mkdir()
        mvn = folder / "bin" / "mvn"
        mvn.write_text(
            f'#!/bin/sh\necho "$@" > {self.asked}\nfor each; do case $each in -DoutputDirectory=*) cp -r {self.brings} "${{each#*=}}";; esac; done\n'
        )
        mvn.chmod(0o700)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maven:
    """A Maven that may bring anything."""
    return Maven(tmp_path, monkeypatch)


def test_a_changed_jar_or_one_that_nobody_knows_is_refused_and_nothing_of_it_is_kept(
    maven: Maven,
) -> None:
    jar = maven.brings / "broker-1.0.jar"
    jar.write_bytes(b"good")
    known = {jar.name: hashlib.sha256(b"good").hexdigest()}
    jar.write_bytes(b"changed")
    with pytest.raises(
        StackError,
        match=r"broker-1\.0\.jar, as Maven brought it, is not the file .* tested with .* Delete it",
    ):
        programs.maven_artifact("org:broker:1.0", "the broker", known)
    assert [path.name for path in maven.cache.iterdir()] == ["lock"]
    jar.write_bytes(b"good")
    (maven.brings / "other.jar").write_bytes(b"more")
    with pytest.raises(
        StackError, match=r"Maven brought other\.jar, which this version of Tutelage does not know"
    ):
        programs.maven_artifact("org:broker:1.0", "the broker", known)
    assert [path.name for path in maven.cache.iterdir()] == ["lock"]
    (maven.brings / "other.jar").unlink()
    home = programs.maven_artifact("org:broker:1.0", "the broker", known)
    assert (home / jar.name).read_bytes() == b"good"
    assert " -C " in maven.asked.read_text() and re.search(
        r"maven-dependency-plugin:\d+\.\d+\.\d+:copy ", maven.asked.read_text()
    )


@pytest.mark.parametrize("fetch", [programs.kafka_jars, programs.registry_home])
def test_the_stacks_own_jars_are_held_against_the_list(maven: Maven, fetch: object) -> None:
    assert callable(fetch)
    for name in ("kafka-clients-4.3.1.jar", "apicurio-registry-app-3.3.3-all.tar.gz"):
        assert re.fullmatch(r"[0-9a-f]{64}", checksums.read_checksums()[name])
    inner = maven.brings.parent / "quarkus-run.jar"
    inner.write_bytes(b"changed")
    with tarfile.open(maven.brings / "apicurio-registry-app-3.3.3-all.tar.gz", "w:gz") as archive:
        archive.add(inner, "quarkus-run.jar")
    (maven.brings / "kafka-clients-4.3.1.jar").write_bytes(b"changed")
    with pytest.raises(
        StackError, match="is not the file that this version of Tutelage was tested with"
    ):
        fetch()
    assert [path.name for path in maven.cache.iterdir()] == ["lock"]


def test_programs_are_not_run_from_a_folder_that_others_could_fill(
    maven: Maven, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = maven.cache / programs.KAFKA
    planted.mkdir(parents=True)
    assert programs.kafka_jars() == planted
    maven.cache.chmod(0o777)
    with pytest.raises(StackError, match="all may write to it: nothing is run from there"):
        programs.kafka_jars()
    maven.cache.chmod(0o755)
    # The folder is this user's; now this user is another one.
    if os.geteuid() == 0:
        os.chown(maven.cache, 4711, 4711)
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StackError, match="belongs to another user"):
        programs.kafka_jars()
    assert not maven.asked.exists()


def test_the_list_holds_the_versions_that_are_fetched(maven: Maven) -> None:
    names = set(checksums.read_checksums())
    assert {
        f"kafka_2.13-{programs.KAFKA_VERSION}.jar",
        f"apicurio-registry-app-{programs.REGISTRY_VERSION}-all.tar.gz",
    } <= names
    assert (
        f"<version>{programs.KAFKA_VERSION}</version>"
        in (ROOT / "deploy" / "local" / "pom.xml").read_text()
    )
    assert not names & set(JARS)


def test_each_image_of_others_stands_with_a_digest_and_the_same_one_everywhere() -> None:
    found: dict[str, set[str | None]] = {}
    deploy = ROOT / "deploy"
    for file in [deploy / "Dockerfile", *deploy.rglob("*.yml"), *deploy.rglob("*.yaml")]:
        for image, digest in re.findall(
            r"^(?:FROM|\s*image:) ([\w./-]+:[\w.-]+)(@sha256:[0-9a-f]{64})?",
            file.read_text(),
            re.MULTILINE,
        ):
            found.setdefault(image, set()).add(digest)
    ours = {image for image in found if image.startswith("tutelage:")}
    assert (
        len(found) > 5
        and {image: digests for image, digests in found.items() if len(digests) > 1} == {}
    )
    assert {image for image, digests in found.items() if "" in digests} == ours


def test_images_are_pinned_by_what_their_registry_says_and_one_that_moved_is_named(
    tmp_path: Path,
) -> None:
    for name in ("Dockerfile", "docker-compose.yml", "k8s/base/registry.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / "deploy" / name).read_bytes())
    before = (tmp_path / "docker-compose.yml").read_text()

    def digest(image: str) -> str:
        """By the tag's own text; a digest is what it is."""
        name, at, given = image.partition("@")
        return given if at else f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"

    moved = pin_images.check(tmp_path, digest)
    assert len(moved) == 7 and all("is no longer the image sha256:" in line for line in moved)
    pin_images.pin(tmp_path, digest)
    assert pin_images.check(tmp_path, digest) == []
    after = (tmp_path / "docker-compose.yml").read_text()
    assert (
        re.sub(r"@sha256:\w+", "", after) == re.sub(r"@sha256:\w+", "", before)
        and "image: tutelage:0.1.0\n" in after
    )
    bare = (tmp_path / "Dockerfile").read_text()
    (tmp_path / "Dockerfile").write_text(re.sub(r"@sha256:\w+", "", bare))
    assert pin_images.check(tmp_path, digest) == [
        "Dockerfile: python:3.11-slim-bookworm has no digest"
    ]


def test_workflows_run_actions_by_commit_and_with_few_rights() -> None:
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert {file.name for file in files} == {"release.yml", "supply-chain.yml", "tests.yml"}
    said = ""
    for file in files:
        text = file.read_text(encoding="utf-8")
        said += text
        uses = re.findall(r"uses: (.*)", text)
        assert uses and all(
            re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each) for each in uses
        ), file
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {"contents": "read"}
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        assert not any("${{" in step.get("run", "") for step in steps), (
            "what an event says is data, and no part of a command"
        )
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"run: make (.*)", said):
        names = target.split(" PYTHON=")[0].split()
        assert all(re.search(rf"^{each}:", makefile, re.MULTILINE) for each in names), target
    assert (
        "make audit" in said
        and "make dist sbom" in said
        and "pip-audit --require-hashes" in makefile
        and "cyclonedx-py" in makefile
    )
