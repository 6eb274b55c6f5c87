"""Runs a command of the command line in this process and catches what it prints and exits with."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

from tutelage.cli.main import app

#: What `learn` says of the toy's merged knowledge, whichever way it came.
TOY_DIGEST = "a3d69b9362317bc5c414846d07b1359e"


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a command."""

    code: int
    out: str
    err: str


def invoke(*arguments: str) -> Result:
    """Run `tutelage` with these arguments."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(list(arguments))
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    return Result(code=code, out=out.getvalue(), err=err.getvalue())
