"""The walls of the house: what each file may import, and that the tree is what the documents say."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Which packages of ours each package's files may import, besides their own; the table of docs/architecture.md.
MAY_IMPORT = {
    "tutelage": {"schemas", "transport", "producers", "consumers", "augmentation", "on_policy"},
    "schemas": set[str](),
    "transport": {"schemas"},
    "producers": {"schemas", "transport"},
    "consumers": {"schemas", "transport"},
    "tools": {"schemas", "transport", "producers", "consumers"},
    "cli": {"", "schemas", "transport", "producers", "consumers", "tools", "deploy", "examples"},
    "deploy": {"schemas", "transport"},
    "augmentation": {"schemas"},
    "on_policy": {"", "schemas", "transport", "producers", "consumers"},
    "integrations": {"", "schemas", "transport", "producers", "consumers", "tools"},
    # The empty name is the front door, which is what users import.
    "examples": {
        "",
        "schemas",
        "transport",
        "producers",
        "consumers",
        "tools",
        "augmentation",
        "integrations",
        "on_policy",
        "deploy",
    },
}
# A second copy of a module, under its folder's name, would have classes of its own.
FOLDERS = set(MAY_IMPORT) - {"tutelage", "examples", "deploy"}
UNPICKLING = {"pickle", "dill", "cloudpickle", "shelve", "marshal"}
SOURCES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
MOST_LINES = 350
MOST_FUNCTION_LINES = 60
MOST_ATTRIBUTES = 15


def imports_of(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            yield node.module or ""


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_a_file_imports_only_what_its_package_may(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for module in imports_of(path):
        first, _, rest = module.partition(".")
        if first == "tutelage":
            # `tutelage.losses` is part of the front door.
            home = "" if rest == "losses" else rest.partition(".")[0]
            assert home == package or home in MAY_IMPORT[package], f"{path} imports {module}"


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_only_transport_imports_the_kafka_client(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] != "transport":
        assert not [module for module in imports_of(path) if module.startswith("confluent_kafka")]


@pytest.mark.parametrize("path", sorted((ROOT / "schemas").glob("*.py")), ids=named)
def test_the_contract_knows_no_torch_sockets_threads_or_clocks(path: Path) -> None:
    assert not {
        "torch",
        "socket",
        "threading",
        "time",
        "asyncio",
        "multiprocessing",
        "urllib",
    } & set(imports_of(path))


@pytest.mark.parametrize("path", sorted((ROOT / "transport").glob("*.py")), ids=named)
def test_transport_knows_no_torch(path: Path) -> None:
    assert "torch" not in set(imports_of(path))


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS], ids=named)
def test_nothing_unpickles_and_nothing_is_imported_by_its_folder(path: Path) -> None:
    for module in imports_of(path):
        assert module.partition(".")[0] not in FOLDERS | UNPICKLING, f"{path} imports {module}"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function's body, without its docstring."""
    first = function.body[0]
    is_docstring = (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    )
    begin = (first.end_lineno or 0) + 1 if is_docstring else first.lineno
    return (function.end_lineno or 0) - begin + 1


def attributes_of(cls: ast.ClassDef) -> set[str]:
    """The attributes that a class sets on itself."""
    return {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("path", [*SOURCES, *BENCHMARKS], ids=named)
def test_functions_are_short_and_classes_have_few_attributes(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert lines_of(node) <= MOST_FUNCTION_LINES, node.name
        elif isinstance(node, ast.ClassDef):
            assert len(attributes_of(node)) <= MOST_ATTRIBUTES, node.name


def test_files_stay_small_enough_to_be_read() -> None:
    too_long = {
        named(path): length
        for path in [*SOURCES, *BENCHMARKS]
        if (length := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not too_long


def test_no_lock_file_and_no_registry_address_is_kept() -> None:
    assert not list(ROOT.glob("uv.lock")) + list(ROOT.glob("poetry.lock"))
    assert "://" not in (ROOT / "constraints.txt").read_text(encoding="utf-8")
