"""MODULE:NAME on the command line -> the object: from an importable module, or from a Python file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.schemas.arguments import absolute_path
from tutelage.schemas.errors import ConfigurationError

if TYPE_CHECKING:
    from tutelage import Lesson


def target_of(text: str, what: str) -> Any:
    """The object that `module:name` or `path/file.py:name` names. ConfigurationError, saying why, if there is none."""
    module_name, colon, name = text.rpartition(":")
    if not colon or not module_name or not name or "\0" in text:
        raise ConfigurationError(f"{text!r}: name the {what} as MODULE:NAME or FILE.py:NAME")
    module = _module(module_name, text)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigurationError(f"{text!r}: {module_name} has no {name}")
    return found


def callable_of(text: str, what: str) -> Any:
    """The function, or other callable, that a text names. ConfigurationError, saying why, if there is none."""
    found = target_of(text, what)
    if not callable(found):
        raise ConfigurationError(
            f"{text!r} is a {type(found).__name__}; the {what} must be a function"
        )
    return found


def lesson_of(text: str) -> Lesson:
    """The lesson that a text names, or that the function it names returns. ConfigurationError, saying why, if there is none."""
    from tutelage import Lesson

    found = target_of(text, "teacher")
    if not isinstance(found, Lesson) and callable(found):
        with contextlib.suppress(ValueError):  # a callable that does not say what it takes
            try:
                inspect.signature(found).bind()
            except TypeError as error:
                raise ConfigurationError(
                    f"{text!r} must be a function without arguments: {error}"
                ) from error
        found = found()
    if not isinstance(found, Lesson):
        raise ConfigurationError(
            f"{text!r} is a {type(found).__name__}; it must be a tutelage.Lesson, or a function that returns one"
        )
    return found


def _module(name: str, text: str) -> Any:
    # Absolute, for imports that come after the program has changed its working directory.
    _search(str(absolute_path("the working directory", ".")))
    if name.endswith(".py"):
        path = Path(name)
        if not os.path.isfile(path):
            raise ConfigurationError(f"{text!r}: there is no file {path}")
        if not os.access(path, os.R_OK):
            raise ConfigurationError(f"{text!r}: the file {path} may not be read")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ConfigurationError(f"{text!r}: {path} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        _search(str(path.resolve().parent))
        spec.loader.exec_module(module)
        return module
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(f"{text!r}: {name} is no module's name; a file's ends in .py")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and not name.startswith(error.name):
            raise
        where = (
            "among those installed; PYTHONSAFEPATH keeps this folder out"
            if sys.flags.safe_path
            else "here or installed"
        )
        raise ConfigurationError(f"{text!r}: there is no module {name} {where}") from error


def _search(folder: str) -> None:
    """Have modules be imported from a folder before others, as Python does for a script's, and as Python does not with PYTHONSAFEPATH."""
    if not sys.flags.safe_path and folder not in sys.path:
        sys.path.insert(0, folder)
