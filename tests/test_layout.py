"""The walls of the house: who may import whom, and that the tree is what the documents say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("schemas", "producers", "consumers", "cli")
SOURCES = [
    path for package in (*PACKAGES, "deploy", "examples", "benchmarks") for path in sorted((ROOT / package).rglob("*.py"))
]


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    forbidden = {
        "schemas": ("tutelage.producers", "tutelage.consumers", "tutelage.cli", "torch", "threading"),
        "producers": ("tutelage.consumers", "tutelage.cli"),
        "consumers": ("tutelage.producers", "tutelage.cli"),
        "deploy": ("tutelage.producers", "tutelage.consumers", "tutelage.cli"),
    }.get(package, ())
    if path.name == "background.py":
        # Threads of both sides are ended by it; neither side may import the other.
        forbidden = tuple(module for module in forbidden if module != "threading")
    for module in imports_of(path):
        assert not module.startswith(forbidden), f"{path} imports {module}"
        assert module.split(".")[0] not in (*PACKAGES, "pickle", "dill", "cloudpickle"), f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_kafka_files_know_the_kafka_client(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if package in ("schemas", "producers", "consumers") and not path.name.startswith("kafka_"):
        known = {module for module in imports_of(path) if module.startswith("confluent_kafka")}
        # The registry speaks HTTP through the client's own module for it.
        assert all(module.startswith("confluent_kafka.schema_registry") for module in known), f"{path} imports {known}"
        assert not known or path.name in ("registry.py", "registry_answers.py")


def test_files_stay_small_enough_to_be_read() -> None:
    too_long = {
        str(path.relative_to(ROOT)): length
        for path in SOURCES
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not too_long


def test_no_lock_file_and_no_registry_address_is_kept() -> None:
    assert not list(ROOT.glob("uv.lock")) + list(ROOT.glob("poetry.lock"))
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
