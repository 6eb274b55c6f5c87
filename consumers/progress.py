"""What a student has given to the training loop, so that other threads see one moment of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tutelage.consumers.place import Place
from tutelage.consumers.sources.base import Position
from tutelage.consumers.stages.batches import Batches
from tutelage.consumers.stages.rebatch import Trail


@dataclass(frozen=True, kw_only=True, slots=True)
class Trails:
    """Where each teacher's rows of some batches lay; holds none of their memory."""

    batch_size: int
    rows: int
    shares: tuple[tuple[Trail, int], ...] = field(repr=False)

    @property
    def batches(self) -> int:
        """How many batches they are."""
        return -(-self.rows // self.batch_size)

    def after(self, index: int) -> tuple[Position, ...]:
        """The teachers' positions behind a batch."""
        rows = min((index + 1) * self.batch_size, self.rows)
        return tuple(trail.after(start + rows) for trail, start in self.shares)


@dataclass(frozen=True, kw_only=True, slots=True)
class Merged:
    """Batches, and where each teacher's rows of them lay; without batches, the end of the pass and `positions` behind it."""

    batches: Batches | None = field(default=None, repr=False)
    shares: tuple[tuple[Trail, int], ...] = field(default=(), repr=False)
    positions: tuple[Position, ...] = ()
    nbytes: int = 0

    @property
    def trails(self) -> Trails:
        """Where the batches' rows lay."""
        assert self.batches is not None, "only batches have something behind them"
        return Trails(
            batch_size=self.batches.batch_size, rows=self.batches.rows, shares=self.shares
        )

    def after(self, index: int) -> tuple[Position, ...]:
        """The teachers' positions behind a batch."""
        return self.trails.after(index)


class _Start:
    """Where giving began: a place, and what had been given of other passes before."""

    __slots__ = ("batches_before", "place", "rows_before")

    def __init__(self, place: Place, batches: int, rows: int) -> None:
        self.place = place
        self.batches_before = batches - place.batches
        self.rows_before = rows - place.rows


class Progress:
    """Where the training loop is.

    Guarantee: `at` is one tuple that is replaced in one assignment, so a reader in any thread sees numbers that belong together.
    It holds where giving began, the batches and rows of the pass that were given, the batches that were merged together with the
    last one, and its number among these.
    """

    __slots__ = ("at",)

    def __init__(self) -> None:
        self.at: tuple[_Start, int, int, Trails | None, int] = (
            _Start(Place(), 0, 0),
            0,
            0,
            None,
            0,
        )

    @property
    def start(self) -> _Start:
        """Where giving began."""
        return self.at[0]

    @property
    def place(self) -> Place:
        """Behind the last batch that was given."""
        start, batches, rows, merged, index = self.at
        return replace(start.place, batches=batches, rows=rows, merged=merged, index=index)

    @property
    def totals(self) -> tuple[int, int]:
        """The batches and rows given since the student was made, of every pass."""
        start, batches, rows, _, _ = self.at
        return start.batches_before + batches, start.rows_before + rows

    @property
    def at_hand(self) -> int:
        """Batches that were merged together with the last one and are still to be given."""
        _, _, _, merged, index = self.at
        return merged.batches - index - 1 if merged is not None else 0

    def go_to(self, place: Place) -> None:
        """Be at another place."""
        if place.merged is not None:
            place = replace(place, positions=place.merged.after(place.index), merged=None)
        self.at = (_Start(place, *self.totals), place.batches, place.rows, None, 0)
