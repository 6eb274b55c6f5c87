"""The real broker and registry, started once a session; skipped where there is no Java or Maven, unless in CI."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.brokers import cannot_run

from tutelage.deploy.local import Stack, StackAddresses, StackError

# Tests run in parallel, and start programs. With an OpenMP thread for every processor in each process,
# the threads would compete for the processors.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A test never fails for taking its time: machines are shared.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, on free ports."""
    made = Stack(tmp_path_factory.mktemp("stack") / "stack")
    try:
        made.up()
    except StackError as error:
        cannot_run(error)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="session")
def addresses(stack: Stack) -> StackAddresses:
    """Where the stack is."""
    found = stack.status()
    assert found is not None
    return found


@pytest.fixture
def kafka(addresses: StackAddresses) -> dict[str, Any]:
    """The arguments of `KafkaSink` and `KafkaSource`."""
    return {"bootstrap_servers": addresses.bootstrap_servers, "registry": addresses.registry}


_NUMBERS = itertools.count()


@pytest.fixture
def topic_name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names of topics nobody used yet."""

    def name(hint: str) -> str:
        return f"{hint}-{os.getpid()}-{next(_NUMBERS)}"

    return name


@pytest.fixture
def environment(addresses: StackAddresses) -> dict[str, str]:
    """The environment of a command that finds the stack."""
    return {
        **os.environ,
        "TUTELAGE_BOOTSTRAP_SERVER": addresses.bootstrap_servers,
        "TUTELAGE_REGISTRY": addresses.registry,
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def toy() -> Path:
    """The folder of the toy's scripts."""
    return Path(__file__).resolve().parent.parent / "examples" / "toy"
