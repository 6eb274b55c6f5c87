"""`import tutelage`: every public name, typed, and nothing loaded before it is used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import tutelage
from tutelage.schemas import errors


@pytest.mark.parametrize("name", tutelage.__all__)
def test_every_public_name_can_be_had(name: str) -> None:
    assert getattr(tutelage, name) is not None
    assert name in dir(tutelage)


def test_every_error_is_public() -> None:
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert ours <= set(tutelage.__all__)


def test_the_version_is_the_distribution_s() -> None:
    assert tutelage.__version__ == version("tutelage")


def test_a_name_that_is_not_there_is_an_ordinary_error() -> None:
    with pytest.raises(AttributeError, match="module 'tutelage' has no attribute 'Professor'"):
        _ = tutelage.Professor  # type: ignore[attr-defined]
    with pytest.raises(ImportError):
        from tutelage import Professor  # type: ignore[attr-defined]  # noqa: F401


def test_nothing_is_loaded_before_it_is_used() -> None:
    program = (
        "import sys, tutelage; tutelage.__version__; tutelage.TutelageError; tutelage.FileSource;"
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'confluent_kafka')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "spelling",
    [
        "import tutelage; tutelage.losses.forward_kl",
        "import tutelage.losses; tutelage.losses.forward_kl",
        "from tutelage import losses; losses.forward_kl",
        "from tutelage.losses import forward_kl",
    ],
)
def test_the_losses_are_a_module_of_the_front_door(spelling: str) -> None:
    subprocess.run([sys.executable, "-c", spelling], timeout=60, check=True)


@pytest.mark.parametrize(
    "spelling",
    [
        "import tutelage; tutelage.augmentation.seeded(1)",
        "import tutelage.augmentation; tutelage.augmentation.seeded(1)",
        "from tutelage import augmentation; augmentation.seeded(1)",
        "from tutelage.augmentation import seeded; seeded(1)",
    ],
)
def test_augmentation_is_a_module_of_the_front_door(spelling: str) -> None:
    subprocess.run([sys.executable, "-c", spelling], timeout=60, check=True)
