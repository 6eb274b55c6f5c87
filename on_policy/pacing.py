"""Queries and answers in lockstep: when rows are generated, and which batch is trained on next.

A `QueryWriter`, a `Student` and a function that generates enter; batches leave. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from tutelage import KnowledgeIterator, Student
from tutelage.on_policy.query_writer import QueryWriter
from tutelage.on_policy.replicas import who_answers
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError, RunMismatch, WaitTimeout
from tutelage.schemas.queries import POLICY_VERSION
from tutelage.schemas.record import Ragged

#: The number of a step -> its rows, without `policy_version`.
Generate = Callable[[int], Mapping[str, Any]]


class OnPolicy:
    """The batches of on-policy distillation: what the student generated, with the teacher's answers.

    Iterate over it, and make one update of the weights for each batch, including the last one
    before you leave the loop. The next iteration continues after it, even after a WaitTimeout.

    Guarantee: rows of step k were generated after at least k - `max_policy_lag` updates. Nothing is
    discarded, and the order of training does not depend on which replica was slow. A restarted
    program trains on the rows and answers that the topics hold, from its checkpoint on, and
    generates only those that they lack.

    The student reads the queries too, as its first teacher, so that what it trains on are the rows
    that were answered: `register_teacher(KafkaSource("teacher1.queries"))`, then the teachers'
    topics, and `Student(sample_id="query_id")`, which checks that each answer is that of its query.

    With several ranks, each has its own student and `QueryWriter`, both with the same `shard`. It
    trains on the rows that it generated itself. All that is said of rows here refers to a rank's
    own rows; all ranks make the same steps.

    Args:
        student: Started, and loaded if training is resumed.
        queries: Where rows are written; started. Of the same rank as the student.
        generate: Called with the number of a step; returns its rows, of this rank, as for
            `QueryWriter.write`. Called in this thread, between updates. It must not wait for other
            ranks: behind a restart they may have other steps to generate.
        batch_size: Rows of a step of one rank; a multiple of the rows of a record.
        global_batch_size: Rows of a step of all ranks together, instead of `batch_size`.
        steps: How many steps to train.
        max_policy_lag: K: how many updates the weights may be behind that generate. With 0 each
            step waits for its answers; with 1 the teacher answers the next step meanwhile.

    Raises:
        ConfigurationError: An argument has the wrong type or value, a source was given another run,
            or student and queries are of different ranks.
        RunMismatch: The student's state is of another run of queries.
        TransportError: While iterating: a query could not be written.
        SchemaError: While iterating: the rows of a step are not `batch_size`, or their keys, dtypes
            or row shapes are not those of earlier steps.
        WaitTimeout: While iterating: no answer came in time. The message says who is in the group
            of the replicas.
    """

    def __init__(
        self,
        student: Student,
        queries: QueryWriter,
        generate: Generate,
        *,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        steps: int,
        max_policy_lag: int = 1,
    ) -> None:
        self._shard = shard = student.shard
        if queries.shard != shard:
            theirs = queries.shard
            raise ConfigurationError(
                f"the student is rank {shard.rank} of {shard.ranks}, and the queries are written by "
                f"rank {theirs.rank} of {theirs.ranks}: a rank trains on what it generated itself; "
                "give both the same shard"
            )
        self._student = student
        self._queries = queries
        if not callable(generate):
            raise ConfigurationError(
                f"generate is a {type(generate).__name__}; give a function: step -> rows"
            )
        self._generate = generate
        self._batch_size = _rows_of_a_rank(batch_size, global_batch_size, shard.ranks)
        self._steps = check_whole_number("steps", steps)
        self._most_lag = check_whole_number("max_policy_lag", max_policy_lag, least=0)
        for source in student.sources:
            # A topic may hold the answers of older runs, and those of this one may not be there yet.
            source.read_run(queries.run_id)
        #: How many updates the weights have had, by the batches that were given.
        self.step = self._given()
        #: How many updates behind the weights were that generated the last batch: the largest of
        #: its rows.
        self.policy_lag = 0
        #: Rows that were generated here, and not found in the topic.
        self.generated_rows = 0

    def row_numbers(self, step: int) -> torch.Tensor:
        """Return the numbers of a step's rows of this rank among all rows of the run.

        A `generate` that chooses its prompts by them gives the same rows for any number of ranks.

        Args:
            step: The step.

        Returns:
            int64 `[rows]`; with one rank from `step * batch_size` on.
        """
        size = self._queries.rows_per_record
        own = torch.arange(step * self._batch_size, (step + 1) * self._batch_size)
        record, place = own // size, own % size
        return (record * self._shard.ranks + self._shard.rank) * size + place

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give the batches of the steps that are left."""
        self.step = self._given()
        self._check_holds_given()
        self._generate_up_to(self.step + self._most_lag)
        if self.step >= self._steps:
            return
        batches = self._opened()
        try:
            for step in range(self.step, self._steps):
                self.step = step
                self._generate_up_to(step + self._most_lag)
                batch = self._next(batches)
                if batch is None:
                    raise self._ended_at(step)
                versions = batch.get(POLICY_VERSION)
                # It has no rows if no query of it was answered, and the student leaves such out.
                is_empty = versions is not None and not len(versions)
                if versions is not None and not is_empty:
                    self.policy_lag = step - int(versions.min())
                # Other ranks may have rows of this step, and wait for this one's gradients.
                if not is_empty or self._shard.ranks > 1:
                    yield batch
                self.step = step + 1
        finally:
            batches.close()

    def _given(self) -> int:
        """How many batches the student has given, those before a state that was loaded included."""
        pass_index, batches, _ = self._student.place
        return batches if not pass_index else self._steps

    def _check_holds_given(self) -> None:
        """Check that the topic holds the rows that the student has had: they were read from it."""
        (pass_index, _, rows), queries = self._student.place, self._queries
        held = queries.rows // self._batch_size
        if pass_index and queries.ended and held < self._steps:
            raise self._ended_at(held)
        if rows > queries.rows * self._shard.ranks or (pass_index and not queries.ended):
            had = "has read its run to the end" if pass_index else f"has had {rows} rows"
            raise RunMismatch(
                f"the student {had}, but {queries.topic} holds "
                f"{queries.rows * self._shard.ranks} rows of run {queries.run_id}: it is another "
                "run, or its records were deleted. Go on with the student's run (run_id), or begin "
                "without its checkpoint"
            )

    def _ended_at(self, step: int) -> ConfigurationError:
        return ConfigurationError(
            f"the queries end with step {step}, before step {self._steps}; begin a new run of "
            "queries for more"
        )

    def _opened(self) -> KnowledgeIterator:
        """The student's batches; waits for the first answer."""
        if self.step:
            # Without a state, a pass that was left early would begin again.
            self._student.load_state_dict(self._student.state_dict())
        # Nobody can answer what the brokers refuse.
        self._queries.flush()
        try:
            batches = self._student.knowledge(self._batch_size, whole_batches=True)
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}. {self._who_answers()}") from error
        batches.while_waiting(self._queries.check)
        return batches

    def _next(self, batches: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """The next batch; None at the end of the queries. Says who answers, if nobody does."""
        try:
            return next(batches, None)
        except WaitTimeout as error:
            raise WaitTimeout(f"{error}. {self._who_answers()}") from error

    def _who_answers(self) -> str:
        return who_answers(self._student.sources, self._queries.topic, self._queries.run_id)

    def _generate_up_to(self, last: int) -> None:
        """Write the rows of all steps up to this one that the topic lacks."""
        last = min(last, self._steps - 1)
        while not self._queries.ended and (step := self._queries.rows // self._batch_size) <= last:
            rows = dict(self._generate(step))
            if POLICY_VERSION in rows:
                raise ConfigurationError(f"the key {POLICY_VERSION!r} is made here")
            rows[POLICY_VERSION] = torch.full((self._batch_size,), self.step, dtype=torch.int64)
            # A program that was killed in a step may have written some of its rows.
            written = self._queries.rows % self._batch_size
            before = self._queries.rows
            self._queries.write({key: _behind(value, written) for key, value in rows.items()})
            self.generated_rows += self._queries.rows - before
        if not self._queries.ended and self._queries.rows >= self._steps * self._batch_size:
            self._queries.end()


def _rows_of_a_rank(batch_size: int | None, global_batch_size: int | None, ranks: int) -> int:
    if (batch_size is None) == (global_batch_size is None):
        raise ConfigurationError(
            "give batch_size, the rows of a step of one rank, or global_batch_size, those of all "
            "ranks together"
        )
    if batch_size is not None:
        return check_whole_number("batch_size", batch_size)
    size = check_whole_number("global_batch_size", global_batch_size)
    if size % ranks:
        raise ConfigurationError(
            f"global_batch_size is {size}, which {ranks} ranks cannot share; it must be a multiple "
            f"of {ranks}, such as {-(-size // ranks) * ranks}"
        )
    return size // ranks


def _behind(values: Any, rows: int) -> Any:
    """What a key has behind its first rows."""
    if isinstance(values, Ragged):
        return values.rows(rows, len(values.lengths))
    return values[rows:] if rows else values
