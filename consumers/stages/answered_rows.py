"""Rows of queries: which of them the teachers answered, and whose answer is taken.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from tutelage.consumers.stages.align import Aligned, Share
from tutelage.consumers.stages.chunk import Chunk
from tutelage.consumers.stages.key_plan import KeyPlan
from tutelage.schemas.errors import MergeError, QueryUnanswered
from tutelage.schemas.queries import ANSWERED, GIVEN_UP, QUERY_ID, QUERY_STATUS
from tutelage.schemas.record import Array, Description, Ragged


def says_status(description: Description) -> bool:
    """Whether a teacher's rows are answers, and say whether each was answered."""
    spec = description.get(QUERY_STATUS)
    return spec is not None and (spec.dtype, spec.shape, spec.wire) == ("int8", (), "int8")


class AnsweredRows:
    """Finds the rows that were not answered.

    Guarantee: what stands in place of an answer is in no batch.

    Args:
        names: The teachers' names, for messages.
        descriptions: What each teacher writes.
        skips: Whether rows that no teacher answered are left out. If not, they are an error.
    """

    def __init__(
        self, names: Sequence[str], descriptions: Sequence[Description], *, skips: bool
    ) -> None:
        self._names = list(names)
        self._skips = skips
        self._teachers = [teacher for teacher, each in enumerate(descriptions) if says_status(each)]

    def look(self, aligned: Aligned) -> Answers | None:
        """Return who answered which rows; None if every teacher answered all of them.

        Args:
            aligned: The rows of each teacher.

        Raises:
            QueryUnanswered: A row was given up, or no teacher answered it.
        """
        statuses = {
            teacher: aligned.shares[teacher].dense(QUERY_STATUS) for teacher in self._teachers
        }
        if not any(each.any() for each in statuses.values()):
            return None
        together = np.stack(list(statuses.values()))
        lacking = (together == GIVEN_UP).any(axis=0) | (together != ANSWERED).all(axis=0)
        if lacking.any() and not self._skips:
            raise self._error(aligned, int(np.flatnonzero(lacking)[0]), statuses)
        return Answers(
            names=self._names,
            statuses=statuses,
            kept=np.flatnonzero(~lacking) if lacking.any() else None,
        )

    def _error(self, aligned: Aligned, row: int, statuses: Mapping[int, Array]) -> QueryUnanswered:
        where = f"row {aligned.first_row + row}"
        for teacher, each in statuses.items():
            if each[row] == GIVEN_UP:
                return QueryUnanswered(
                    f"{where}: {self._names[teacher]} gave this query up, because it ended too many "
                    "replicas; their logs say how. Student(on_unanswered='skip') leaves such rows "
                    "out"
                )
        names = " and ".join(self._names[teacher] for teacher in statuses)
        return QueryUnanswered(
            f"{where}: the query is for none of the teachers that answer here, {names}; add its "
            "teacher, or leave such rows out with Student(on_unanswered='skip')"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Who answered which of some rows.

    Args:
        names: The teachers' names, for messages.
        statuses: Teacher -> what became of each row's query there, int8 `[rows]`.
        kept: The rows that are in batches, int64, in order; None for all.
    """

    names: Sequence[str]
    statuses: Mapping[int, Array] = field(repr=False)
    kept: Array | None = field(repr=False)

    def shares(self, plan: KeyPlan, aligned: Aligned) -> list[Share]:
        """Return what a key is merged from: for the strategy `answered`, the rows that were.

        Args:
            plan: How the key is merged.
            aligned: The rows of each teacher, all of which are kept.

        Raises:
            MergeError: A row was not answered by a teacher whose value is needed.
        """
        shares = [aligned.shares[teacher] for teacher in plan.teachers]
        answered = [self._answered(teacher, aligned.rows) for teacher in plan.teachers]
        if plan.key == QUERY_ID or not aligned.rows:
            return shares
        if plan.strategy.name == "answered":
            together = np.stack(answered)
            by_any = np.asarray(together.any(axis=0))
            if by_any.all():
                every = np.arange(aligned.rows)
                return [picked(shares, [plan.key], every, together.argmax(axis=0))]
            answered = [by_any]
        needed = answered[:1] if plan.strategy.name == "first" else answered
        for teacher, rows in zip(plan.teachers, needed, strict=False):
            if not rows.all():
                row = aligned.first_row + int(np.flatnonzero(~rows)[0])
                raise MergeError(
                    f"key {plan.key!r}, row {row}: {self.names[teacher]} does not answer this "
                    "query, which is for another teacher; give the key the same name at all of "
                    f"them, and merge it with Student({{{plan.key!r}: 'answered'}})"
                )
        return shares

    def _answered(self, teacher: int, rows: int) -> Array:
        """Whether a teacher answered each row, bool `[rows]`."""
        status = self.statuses.get(teacher)
        found: Array = np.ones(rows, np.bool_) if status is None else status == ANSWERED
        return found

    def parts(self, aligned: Aligned, batch_size: int) -> Iterator[tuple[Aligned, Answers]]:
        """For each batch of some rows: those of its rows that are kept, and who answered them.

        Args:
            aligned: The rows of each teacher.
            batch_size: Rows of a batch, before some are left out.
        """
        kept = np.arange(aligned.rows) if self.kept is None else self.kept
        for start in range(0, aligned.rows, batch_size):
            rows = kept[(kept >= start) & (kept < start + batch_size)]
            of_first = np.zeros(len(rows), np.int64)
            part = Aligned(
                first_row=aligned.first_row + (int(rows[0]) if len(rows) else start),
                rows=len(rows),
                shares=tuple(
                    picked([share], [*share.chunk.dense, *share.chunk.ragged], rows, of_first)
                    for share in aligned.shares
                ),
                global_rows=aligned.global_rows,
                ranks=aligned.ranks,
            )
            statuses = {teacher: each[rows] for teacher, each in self.statuses.items()}
            yield part, Answers(names=self.names, statuses=statuses, kept=None)


def picked(shares: Sequence[Share], keys: Iterable[str], rows: Array, choice: Array) -> Share:
    """Return some rows, each of one of several shares, as a copy.

    Args:
        shares: The shares.
        keys: The keys to take, which have one form in all of them.
        rows: The numbers of the rows in a share, int64 `[rows]`, ascending.
        choice: For each of them, the number of the share that it is taken from, int64 `[rows]`.
    """
    first = shares[0].chunk
    dense: dict[str, Array] = {}
    ragged: dict[str, list[tuple[int, Ragged]]] = {}
    for key in keys:
        if key in first.ragged:
            ragged[key] = _picked_ragged(shares, key, rows, choice)
            continue
        dense[key] = shares[0].dense(key)[rows]
        for number, share in enumerate(shares[1:], start=1):
            here = choice == number
            if here.any():
                dense[key][here] = share.dense(key)[rows[here]]
    chunk = Chunk(rows=len(rows), resume=first.resume, dense=dense, ragged=ragged, reads=[])
    return Share(chunk=chunk, start=0, rows=len(rows))


def _picked_ragged(
    shares: Sequence[Share], key: str, rows: Array, choice: Array
) -> list[tuple[int, Ragged]]:
    """The picked rows of a ragged key, as pieces, each with its first row."""
    if not len(rows):
        return [(0, piece) for piece in shares[0].ragged(key, 0, 0)]
    found: list[tuple[int, Ragged]] = []
    at = 0
    ends = np.flatnonzero((np.diff(rows) != 1) | (np.diff(choice) != 0)) + 1
    for run in np.split(np.arange(len(rows)), ends):
        start, stop = int(rows[run[0]]), int(rows[run[-1]]) + 1
        for piece in shares[int(choice[run[0]])].ragged(key, start, stop):
            found.append((at, piece))
            at += len(piece.lengths)
    return found
