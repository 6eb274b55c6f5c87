"""Imports typer's help renderer without two modules of rich that this program never uses.

`typer.rich_utils` imports `rich.markdown` and `rich.traceback`, and with them a Markdown parser and
a syntax highlighter. Without them `tutelage --help` takes 0.68 of the time: 0.113 s instead of
0.167 s, and 0.235 s instead of 0.385 s where Python keeps no compiled modules.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_RENDERER = "typer.rich_utils"
_UNUSED = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}


def import_renderer() -> None:
    """Import `typer.rich_utils` with stand-ins for the two classes, unless it is imported already.

    Only `typer.rich_utils` gets the stand-ins. Should a version of typer use one after all, it
    imports the class that it stands for.
    """
    if _RENDERER in sys.modules:
        return
    missing = _UNUSED.keys() - sys.modules.keys()
    for module in missing:
        stand_in = ModuleType(module)
        name = _UNUSED[module]
        setattr(stand_in, name, _StandIn(name, (), {"__module__": module}))
        sys.modules[module] = stand_in
    try:
        importlib.import_module(_RENDERER)
    finally:
        for module in missing:
            del sys.modules[module]


class _StandIn(type):
    """A class that imports the class it stands for when it is called or asked for an attribute."""

    def __call__(cls, *args: Any, **settings: Any) -> Any:
        return cls._imported()(*args, **settings)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls._imported(), name)

    def _imported(cls) -> Any:
        return getattr(importlib.import_module(cls.__module__), cls.__name__)
