"""The extension that writes pages of the documentation from the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parents[2] / "docs"


def from_code() -> ModuleType:
    """`docs/_extensions/from_code.py`, which no package holds."""
    spec = importlib.util.spec_from_file_location(
        "from_code", DOCS / "_extensions" / "from_code.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
