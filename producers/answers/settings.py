"""How a replica answers: its group, its budget, and the format of what the model gets."""

from __future__ import annotations

from dataclasses import dataclass

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
    """

    group: GroupSettings
    budget: Budget
    pad_value: float = 0
    pad_left: bool = False
    limits: Limits = DEFAULT_LIMITS
    run: str | None = None
