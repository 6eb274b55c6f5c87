"""How many replicas each partition's next queries have ended: notes that a group keeps. No I/O or clocks.

A replica that is given a partition notes with which query it begins, and the last one that the model
gets in the same call. The note is taken back when the replica hands the partition over. One that is
still there, for a query without an answer, was left by a replica that ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tutelage.producers.answers.query import Query
from tutelage.schemas.errors import DescriptionChanged
from tutelage.schemas.record import Stream

#: An offset, and the note that the group keeps with it.
Noted = tuple[int, str]


@dataclass(kw_only=True, slots=True)
class _Watched:
    """The next query of a partition.

    Args:
        place: Its pass and sequence.
        last: Those of the last query that was computed together with it.
        ended: How many replicas have ended with it.
        offset: Its offset while it is computed; None otherwise.
        failed: Whether the model failed with it here.
    """

    place: tuple[int, int]
    last: tuple[int, int]
    ended: int
    offset: int | None = None
    failed: bool = False


class Attempts:
    """Counts the replicas that each partition's next queries have ended.

    The queries that were computed when a replica ended are suspect, and are computed alone from
    then on. So each is cleared by its answer, but for the one that was the cause.

    Args:
        stream: The run of queries.
        most: After this many a query is given up; None for never.
    """

    def __init__(self, stream: Stream, most: int | None) -> None:
        self._stream = stream
        self._most = most
        self._watched: dict[int, _Watched] = {}
        # Partition -> what the group must hold if the answer that was sent last to a watched query
        # is never written.
        self._unwritten: dict[int, Noted] = {}

    def begin(self, partition: int, missing: tuple[int, int], note: str) -> None:
        """Begin with a partition.

        Args:
            partition: The partition.
            missing: The pass and sequence of the first answer that it lacks.
            note: What the group holds about it; empty for nothing.
        """
        if self._most is None:
            return
        found = _read(note, self._stream.run_id)
        if found is None or found.place != missing:
            found = _Watched(place=missing, last=missing, ended=0)
        self._watched[partition] = found

    def forget(self, partition: int) -> None:
        """Forget a partition that is another replica's now."""
        self._watched.pop(partition, None)
        self._unwritten.pop(partition, None)

    def ended(self, query: Query) -> int:
        """How many replicas a query has ended, alone or with others."""
        watched, place = self._watched.get(query.partition), _place(query)
        if watched is None or not watched.ended or query.head.end is not None:
            return 0
        if place == watched.place:
            return watched.ended
        return int(watched.place < place <= watched.last)

    def is_suspect(self, query: Query) -> bool:
        """Whether a query must be computed alone."""
        return self.ended(query) > 0

    def is_given_up(self, query: Query) -> bool:
        """Whether a query has ended as many replicas as it may."""
        return self._most is not None and self.ended(query) >= self._most

    def compute(self, queries: Sequence[Query]) -> dict[int, Noted]:
        """Begin to compute some queries in one call.

        Returns:
            Partition -> what the group must hold before.
        """
        begun = []
        for query in queries:
            watched, place = self._watched.get(query.partition), _place(query)
            if watched is None:
                continue
            if place == watched.place and query.head.end is None:
                watched.offset = query.offset
                begun.append(query.partition)
            elif query.partition in begun:
                watched.last = max(watched.last, place)
        return {partition: noted for partition in begun if (noted := self.noted(partition))}

    def noted(self, partition: int) -> Noted | None:
        """What the group holds about a partition; None if none of its queries is watched."""
        watched = self._watched.get(partition)
        if watched is None or watched.offset is None:
            return None
        return watched.offset, self._note(watched, watched.ended + 1)

    def kept(self, partition: int) -> str:
        """The note that stays with a partition's offset while its next query is not computed."""
        watched = self._watched.get(partition)
        return "" if watched is None else self._note(watched, watched.ended)

    def answered(self, query: Query) -> None:
        """Note that the answer to a query was sent. The next that is suspect is watched then."""
        watched = self._watched.get(query.partition)
        if watched is None or _place(query) != watched.place:
            return
        if watched.offset is not None:
            noted = watched.offset, self._note(watched, watched.ended)
            self._unwritten[query.partition] = noted
        pass_index, sequence = watched.place
        following = pass_index, sequence + self._stream.partitions
        if watched.ended and following <= watched.last:
            self._watched[query.partition] = _Watched(place=following, last=watched.last, ended=1)
        else:
            del self._watched[query.partition]

    def written(self, partition: int) -> None:
        """Note that the brokers have every answer that was sent to a partition."""
        self._unwritten.pop(partition, None)

    @contextmanager
    def blamed(
        self, queries: Sequence[Query], kinds: tuple[type[Exception], ...] = (Exception,)
    ) -> Iterator[None]:
        """Blame some queries for what a block raises: what is noted of them stays.

        What answers hold belongs to the replica: DescriptionChanged is no query's fault.

        Args:
            queries: The queries that are computed or written.
            kinds: What they can be the cause of.
        """
        try:
            yield
        except DescriptionChanged:
            raise
        except kinds:
            for query in queries:
                watched = self._watched.get(query.partition)
                if watched is not None and watched.offset is not None:
                    watched.failed = True
            raise

    def hand_over(self, partitions: Sequence[int]) -> Mapping[int, Noted]:
        """Take back what was noted of partitions whose queries were begun and have no answer.

        An answer that was sent but not written does not count: no query is to blame if the brokers
        did not take it.

        Returns:
            Partition -> what the group must hold.
        """
        begun = {
            partition: (watched.offset, self._note(watched, watched.ended))
            for partition in partitions
            if (watched := self._watched.get(partition)) is not None
            and watched.offset is not None
            and not watched.failed
        }
        unwritten = {
            partition: noted
            for partition in partitions
            if (noted := self._unwritten.get(partition)) is not None
        }
        return begun | unwritten

    def _note(self, watched: _Watched, ended: int) -> str:
        if not ended:
            return ""
        numbers = (*watched.place, *watched.last, ended)
        return f"{self._stream.run_id} queries {' '.join(map(str, numbers))}"


def _read(note: str, run_id: str) -> _Watched | None:
    """Read a note; None if it is another program's, or of another run."""
    name, _, rest = note.rpartition(" queries ")
    numbers = rest.split()
    if name != run_id or len(numbers) != 5 or not all(each.isdigit() for each in numbers):
        return None
    *places, ended = map(int, numbers)
    return _Watched(place=(places[0], places[1]), last=(places[2], places[3]), ended=ended)


def _place(query: Query) -> tuple[int, int]:
    return query.head.pass_index, query.head.sequence
