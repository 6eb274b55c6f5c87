"""Writes the answers of calls that are done, in the order of the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tutelage.producers.answers.asked import Asked
from tutelage.producers.answers.calls import Call, Calls
from tutelage.producers.answers.empty_row import EmptyRow
from tutelage.producers.answers.owned import OwnedQueries
from tutelage.producers.answers.progress import Progress, ReplicaStats
from tutelage.producers.answers.query import Query
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import (
    QueryUnanswered,
    RecordTooLarge,
    SchemaError,
)
from tutelage.schemas.record import Column, Description
from tutelage.transport.rate_limit import RateLimit

# How often a replica looks for the run's first answer, while it has answers of its own to write.
_LOOK_EVERY_S = 0.25


class CallWriter:
    """Calls that are done -> answers in their topic.

    Args:
        calls: The calls.
        queries: Which queries are still this replica's to answer.
        answers: Where answers go.
        options: How keys travel.
        progress: Is told of each answer that was sent.
        stats: Counts what was written.
    """

    def __init__(
        self,
        calls: Calls,
        queries: OwnedQueries,
        answers: AnswerTopic,
        options: WireOptions,
        progress: Progress,
        stats: ReplicaStats,
    ) -> None:
        self._calls = calls
        self._queries = queries
        self._answers = answers
        self._progress = progress
        self._stats = stats
        self._empty_row = EmptyRow(options)
        self._ask_due = RateLimit(_LOOK_EVERY_S)
        # The query whose answer, the first of the run, was written before its call's turn.
        self._written_first: Query | None = None

    def write_done(self) -> None:
        """Write the answers of calls that are done.

        Raises:
            SchemaError: The model returned other rows than it got, or values that cannot travel.
            QueryUnanswered: The run's first query is given up, so what answers hold is not known.
            TransportError: An answer is too large, or one could not be written.
            Exception: What the model raised.
        """
        if self._answers.description is None and not self._describe_answers():
            return
        while (call := self._calls.first) is not None and call.future.done():
            batch = self._result(call)
            self._calls.pop()
            self._stats.forward_s += call.future.result().seconds
            self._write(call.asked, batch)

    def _describe_answers(self) -> bool:
        """Find out what answers hold: the first answer of the run says it, whoever writes it.

        So replicas of different models, which all start at once, do not mix: all but one find an
        answer that is not theirs.

        Returns:
            Whether it is known now.
        """
        # The pool puts the run's first query first in its call.
        mine = self._calls.of_first_query(self._queries.owns)
        if mine is not None and mine.future.done():
            self._write(mine.asked[:1], self._result(mine))
            self._written_first = mine.asked[0].query
        elif mine is None and self._calls and self._ask_due.due():
            self._answers.missing([0])
        return self._answers.description is not None

    def _result(self, call: Call) -> HostBatch | None:
        """What the model returned. If it failed, or its values cannot travel, its queries are blamed."""
        with self._queries.attempts.blamed([each.query for each in call.asked]):
            batch = call.batch()
            if batch is not None:
                batch.columns()
            return batch

    def _write(self, asked: Sequence[Asked], batch: HostBatch | None) -> None:
        columns = batch.columns() if batch is not None else {}
        first = 0
        for each in asked:
            query = each.query
            if not self._queries.owns(query):
                self._stats.discarded += 1
            elif query is not self._written_first:
                self._stats.nbytes += self._written(each, columns, first, batch)
                self._queries.attempts.answered(query)
                self._progress.sent(query.partition)
                self._stats.queries += query.head.end is None
                self._stats.rows += query.head.rows
            first += int(each.computed.sum())

    def _written(
        self, asked: Asked, columns: Mapping[str, Column], first: int, batch: HostBatch | None
    ) -> int:
        """Send the answer to one query; its bytes."""
        query = asked.query
        with self._queries.attempts.blamed([query], kinds=(SchemaError, RecordTooLarge)):
            return self._answers.write(
                query.partition,
                replace(query.head, generation=0),
                asked.answer(columns, first, self._empty(batch, asked)),
                self._description(batch) if query.head.rows else None,
            )

    def _description(self, batch: HostBatch | None) -> Description | None:
        return self._answers.description if batch is None else batch.description

    def _empty(self, batch: HostBatch | None, asked: Asked) -> Mapping[str, Column]:
        """What stands in place of the answer to a row that has none, if there is such a row."""
        if not asked.status.any():
            return {}
        description = self._description(batch)
        if description is None:
            raise QueryUnanswered(
                f"topic {self._queries.topic}: {asked.query} has ended "
                f"{self._queries.attempts.ended(asked.query)} replicas. It is the first of its run, so "
                "what answers hold is not known, and nothing can stand in its place. Mend the model, "
                "or begin a new run of queries"
            )
        return self._empty_row.of(description)
