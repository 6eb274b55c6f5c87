"""Every public name says what it is, what it takes, what it returns and what it raises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import tutelage
from tutelage.transport.registry import Registry

NAMES = [name for name in tutelage.__all__ if name != "__version__"]
KINDS = [getattr(tutelage, name) for name in NAMES]
CLASSES = [kind for kind in KINDS if inspect.isclass(kind) and not issubclass(kind, BaseException)]
FUNCTIONS = [kind for kind in KINDS if inspect.isfunction(kind)]
# What implements a protocol is documented there.
PROTOCOLS = {tutelage.HttpRegistry: Registry, tutelage.LocalRegistry: Registry}
# For the data set in a DataLoader's worker, not for users.
INTERNAL = {"knowledge_in_worker"}


def sections_of(thing: Any) -> dict[str, str]:
    """A docstring's sections by name; what is before the first one under the empty name."""
    found: dict[str, str] = {"": ""}
    name = ""
    for line in (inspect.getdoc(thing) or "").splitlines():
        if line.endswith(":") and not line.startswith(" ") and line[:-1].isalpha():
            name = line[:-1]
            found[name] = ""
        else:
            found[name] += line + "\n"
    return found


def parameters_of(function: Callable[..., Any]) -> list[str]:
    """The parameters that a caller gives."""
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        each.name
        for each in inspect.signature(function).parameters.values()
        if each.name != "self" and each.kind not in kinds
    ]


def undocumented(thing: Any, parameters: list[str]) -> list[str]:
    """The parameters that the `Args:` of a docstring do not name."""
    told = sections_of(thing).get("Args", "")
    return [name for name in parameters if f"    {name}: " not in told]


def methods() -> Iterator[Any]:
    """Every public method of every public class, with the class."""
    for kind in CLASSES:
        for name in sorted(dir(kind)):
            member = getattr(kind, name)
            if (
                not name.startswith("_")
                and inspect.isfunction(member)
                and member.__module__.startswith("tutelage")
            ):
                home = PROTOCOLS.get(kind, kind)
                if name not in INTERNAL:
                    yield pytest.param(getattr(home, name), id=f"{kind.__name__}.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_says_what_it_is(name: str) -> None:
    kind = getattr(tutelage, name)
    assert kind.__doc__, name
    summary = sections_of(kind)[""].strip().split("\n\n")[0]
    assert summary and summary.endswith((".", ":")), f"{name}: {summary!r}"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_class_names_every_argument_of_its_constructor_and_what_it_raises(kind: type) -> None:
    parameters = [] if inspect.isabstract(kind) else parameters_of(kind)
    assert not undocumented(kind, parameters)
    if parameters and kind is not tutelage.MemoryTopic:
        assert sections_of(kind).get("Raises"), f"{kind.__name__} does not say what it raises"


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_names_its_arguments_its_result_and_what_it_raises(
    function: Callable[..., Any],
) -> None:
    assert not undocumented(function, parameters_of(function))
    assert {"Returns", "Raises"} <= sections_of(function).keys()


@pytest.mark.parametrize("method", list(methods()))
def test_a_method_names_its_arguments_and_its_result(method: Callable[..., Any]) -> None:
    sections = sections_of(method)
    assert sections[""].strip(), "it has no docstring"
    assert not undocumented(method, parameters_of(method))
    returns = inspect.signature(method).return_annotation
    if returns not in (None, "None", inspect.Signature.empty) and not str(returns).startswith(
        "Generator"
    ):
        assert sections.get("Returns"), f"it returns {returns} and does not say what that is"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_property_says_what_it_is(kind: type) -> None:
    for name in dir(kind):
        member = inspect.getattr_static(kind, name)
        if not name.startswith("_") and isinstance(member, property):
            assert inspect.getdoc(getattr(kind, name, member)), f"{kind.__name__}.{name}"
