"""Where the training loop is: what a student has given it. Other threads read it at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tutelage.consumers.position import ResumeIndex, positions_after
from tutelage.consumers.resume_state import ResumeState


class _Start:
    """Where giving began, and what had been given of other passes before."""

    __slots__ = ("batches_before", "dealt", "rows_before", "state")

    def __init__(self, state: ResumeState, batches: int, rows: int, dealt: Sequence[int]) -> None:
        self.state = state
        self.dealt = dealt
        self.batches_before = batches - state.batches
        self.rows_before = rows - state.rows


class Progress:
    """Where the training loop is.

    Guarantee: `at` is one tuple that is replaced in one assignment, so a reader in any thread sees
    numbers that belong together. It holds: where giving began; the batches and rows of the pass
    that were given, those of all ranks; of the batches that were merged together with the last one, the positions
    behind their rows, the rows that were given, and how many are left.
    """

    __slots__ = ("at", "furthest")

    def __init__(self) -> None:
        self.at: tuple[_Start, int, int, tuple[ResumeIndex, ...], int, int]
        self.at = (_Start(ResumeState(), 0, 0, ()), 0, 0, (), 0, 0)
        #: The last pass that was begun: behind it the first one may have begun again.
        self.furthest = 0

    @property
    def pass_index(self) -> int:
        """The pass."""
        return self.at[0].state.pass_index

    @property
    def batches(self) -> int:
        """The batches of the pass that were given, also before a resume."""
        return self.at[1]

    @property
    def state(self) -> ResumeState:
        """Where reading goes on behind the last batch that was given."""
        start, batches, rows, resume, rows_given, _ = self.at
        positions = positions_after(resume, rows_given) if resume else start.state.positions
        if start.dealt and positions is not None:
            # What this rank read says nothing of what the others read.
            positions = tuple(
                replace(position, sequence=rows // size, row=rows % size)
                for position, size in zip(positions, start.dealt, strict=True)
            )
        return replace(start.state, batches=batches, rows=rows, positions=positions)

    @property
    def totals(self) -> tuple[int, int]:
        """The batches and rows given since the student was made, of every pass."""
        start, batches, rows, *_ = self.at
        return start.batches_before + batches, start.rows_before + rows

    @property
    def left(self) -> int:
        """Batches that were merged together with the last one and were not given yet."""
        return self.at[-1]

    def go_to(self, state: ResumeState, dealt: Sequence[int] = ()) -> None:
        """Go on from another place.

        Args:
            state: The place.
            dealt: Where rows are dealt to ranks, the rows of a record of each teacher.
        """
        self.furthest = max(self.furthest, state.pass_index)
        self.at = (_Start(state, *self.totals, dealt), state.batches, state.rows, (), 0, 0)
