"""Loads the object that MODULE:NAME or FILE.py:NAME names on the command line."""

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


def load_object(text: str, role: str) -> Any:
    """Import the object that a text names.

    Args:
        text: `module:name` or `path/file.py:name`; the name may have dots.
        role: What the object is for, for errors: "teacher" or "student".

    Returns:
        The object.

    Raises:
        ConfigurationError: There is no such module, file or object.
    """
    module_name, colon, name = text.rpartition(":")
    if not colon or not module_name or not name or "\0" in text:
        raise ConfigurationError(f"{text!r}: name the {role} as MODULE:NAME or FILE.py:NAME")
    found: Any = _module(module_name, text)
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            raise ConfigurationError(f"{text!r}: {module_name} has no {name}")
    return found


def load_function(text: str, role: str) -> Any:
    """As `load_object`. Raises ConfigurationError also for an object that cannot be called."""
    found = load_object(text, role)
    if not callable(found):
        raise ConfigurationError(
            f"{text!r} is a {type(found).__name__}; the {role} must be a function"
        )
    return found


def load_lesson(text: str) -> Lesson:
    """The `Lesson` that a text names, or that the function it names returns.

    Raises:
        ConfigurationError: There is no such object, or it is neither a `Lesson` nor a function
            without arguments that returns one.
    """
    from tutelage import Lesson

    found = load_object(text, "teacher")
    if not isinstance(found, Lesson) and callable(found):
        with contextlib.suppress(ValueError):  # a callable without a signature
            try:
                inspect.signature(found).bind()
            except TypeError as error:
                raise ConfigurationError(
                    f"{text!r} must be a function without arguments: {error}"
                ) from error
        found = found()
    if not isinstance(found, Lesson):
        raise ConfigurationError(
            f"{text!r} is a {type(found).__name__}; it must be a tutelage.Lesson, or a function "
            "that returns one"
        )
    return found


def _module(name: str, text: str) -> Any:
    # The absolute path, for imports after the program has changed its working directory.
    _add_to_path(str(absolute_path("the working directory", ".")))
    if name.endswith(".py"):
        return _module_of_file(Path(name), text)
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigurationError(
            f"{text!r}: {name} is not the name of a module; a file's name ends in .py"
        )
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


def _module_of_file(path: Path, text: str) -> Any:
    if not os.path.isfile(path):
        raise ConfigurationError(f"{text!r}: there is no file {path}")
    if not os.access(path, os.R_OK):
        raise ConfigurationError(f"{text!r}: the file {path} may not be read")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{text!r}: {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    _add_to_path(str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _add_to_path(folder: str) -> None:
    """Import modules from a folder first, as Python does for a script; not with PYTHONSAFEPATH."""
    if not sys.flags.safe_path and folder not in sys.path:
        sys.path.insert(0, folder)
