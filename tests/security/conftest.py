"""The secured broker, started once for these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from security.secured import Secured, secured
from support.brokers import cannot_run

from tutelage.deploy.local import StackError


@pytest.fixture(scope="session")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A broker that lets in only whom it knows."""
    try:
        made = secured(tmp_path_factory.mktemp("secured"))
    except StackError as error:
        cannot_run(error)
    try:
        yield made
    finally:
        made.close()
