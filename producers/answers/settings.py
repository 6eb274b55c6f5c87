"""How a replica answers: its group, its budget, and the format of what the model gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tutelage.producers.answers.pool import Budget
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.transport.group_reader import GroupSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSettings:
    """How a replica answers.

    Args:
        group: The group of the teacher's replicas.
        budget: How much one call of the model takes.
        pad_value: The number that ragged rows of queries are padded with.
        pad_left: Whether they are padded on the left.
        limits: How large queries may be.
        run: The run of queries; None for the newest, also for one that begins later.
        only: Key -> the value that it has in this teacher's rows; empty if all are its own.
        give_up_after: How many replicas a query may end before it is given up; None for any number.
    """

    group: GroupSettings
    budget: Budget
    pad_value: float = 0
    pad_left: bool = False
    limits: Limits = DEFAULT_LIMITS
    run: str | None = None
    only: Mapping[str, int] = field(default_factory=dict)
    give_up_after: int | None = 3
