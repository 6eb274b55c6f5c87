"""The secured broker, started once for these tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from security.secured import Secured, secured

from tutelage.deploy.local import StackError


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker that lets in only whom it knows."""
    try:
        made = secured(tmp_path_factory.mktemp("secured"))
    except StackError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must run the security tests: {error}")
        pytest.skip(str(error))
    try:
        yield made
    finally:
        made.close()
