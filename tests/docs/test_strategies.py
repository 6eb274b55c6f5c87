"""Each merge strategy is named where people look for it."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from tutelage import Student
from tutelage.cli.learn import MergeFlag
from tutelage.consumers.stages.strategies import RULES, STRATEGIES

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_is_named_in_the_class_the_help_and_the_page(name: str) -> None:
    (_, flag) = typing.get_args(MergeFlag)
    page = (ROOT / "docs" / "how-to" / "own-student.md").read_text(encoding="utf-8")
    assert f'"{name}' in (Student.__doc__ or "")
    assert name in flag.help
    assert f"`{name}" in page


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_rule_folds_arranges_or_chooses(name: str) -> None:
    rule = RULES[name]
    assert (rule.fold is not None) + (rule.arrange is not None) + rule.chooses == 1
