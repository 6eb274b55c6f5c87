"""MODULE:NAME on the command line -> the object: from an importable module, or from a Python file."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from tutelage.schemas.errors import ConfigurationError


def target_of(text: str, what: str) -> Any:
    """The object that `module:name` or `path/file.py:name` names. ConfigurationError, saying why, if there is none."""
    module_name, colon, name = text.rpartition(":")
    if not colon or not module_name or not name:
        raise ConfigurationError(f"{text!r}: name the {what} as MODULE:NAME or FILE.py:NAME")
    module = _module(module_name, text)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigurationError(f"{text!r}: {module_name} has no {name}")
    return found


def _module(name: str, text: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise ConfigurationError(f"{text!r}: there is no file {path}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ConfigurationError(f"{text!r}: {path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        sys.path.insert(0, str(path.resolve().parent))
        spec.loader.exec_module(module)
        return module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not name.startswith(error.name):
            raise
        raise ConfigurationError(f"{text!r}: there is no module {name}, neither here nor installed") from error
