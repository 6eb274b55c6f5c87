"""The part of `Teacher` that answers queries: finds the run of queries, and runs a replica."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tutelage.producers.answers.pool import Budget
from tutelage.producers.answers.replica import Replica
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.producers.run_spec import RunSpec
from tutelage.producers.sinks.base import Sink
from tutelage.producers.sinks.kafka import KafkaSink
from tutelage.producers.stages.devices import Devices, Model
from tutelage.producers.stages.thread_context import ThreadContext
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.arguments import check_seconds, check_text, check_whole_number
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.queries import replica_group
from tutelage.schemas.record import Stream
from tutelage.schemas.topic import check_topic
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.group_reader import GroupSettings
from tutelage.transport.outages import through_outages
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

if TYPE_CHECKING:
    import torch

    from tutelage.producers.run import Run

log = logging.getLogger(__name__)

_LOOK_S, _NEXT_RUN_LOOK_S = 0.2, 1.0
# How long to wait for a query, unless told otherwise; a service waits as long as topics keep records.
_FIRST_QUERY_S, _STAY_S = 3600.0, 7 * 86400.0


class Answering:
    """The part of `Teacher` that answers a student's queries."""

    _sink: Sink
    _spec: RunSpec
    _options: WireOptions
    _run: Run | None
    _closed: bool
    _replica: Replica | None = None

    if TYPE_CHECKING:

        def close(self) -> None: ...

    @property
    def replica(self) -> Replica | None:
        """What `answer` does: its statistics. None before it has found queries. Safe in any thread."""
        return self._replica

    def answer(
        self,
        model: Model | Sequence[Model],
        queries: str,
        *,
        run: str | None = None,
        group: str | None = None,
        group_protocol: str = "classic",
        session_timeout_s: float = 6.0,
        max_rows: int = 64,
        max_tokens: int | None = None,
        linger_s: float = 0.002,
        pad_value: float = 0,
        pad_left: bool = False,
        only: Mapping[str, int] | None = None,
        give_up_after: int | None = 3,
        devices: Sequence[str | torch.device] | None = None,
        timeout_s: float | None = None,
        stay: bool = False,
        progress: Callable[[Replica], None] = lambda replica: None,
    ) -> Replica:
        """Answer the queries of a run, together with any number of other replicas.

        Call it instead of `start`, in any number of processes with the same arguments; start and
        stop them at any time. Each query is answered once: replicas share the partitions of the
        queries as a consumer group does, and go on behind the last answer that the topic holds.
        Returns once every query of the run has its answer. If the newest run has all of its answers
        already, that is at once: a new run must have begun before.

        Args:
            model: As for `serve`. It gets the rows of one or more queries as a student would: a
                dict of tensors `[rows, ...]`, ragged keys padded, with their lengths under
                `KEY.lengths`. It returns one row of knowledge for each, in their order.
            queries: The topic of queries, which a `QueryWriter` writes.
            run: The run of queries to answer; None for the newest, and for those that begin later,
                as soon as they do.
            group: The group of the replicas; None for `tutelage-TOPIC`, or `tutelage-TOPIC-RUN` if a
                run is named.
            group_protocol: "classic", or "consumer" for the rebalances of KIP-848.
            session_timeout_s: How long a classic replica may be silent before others take over.
            max_rows: Rows of one call of the model, at most.
            max_tokens: Elements of the longest ragged key of one call, padding included; None for
                no limit.
            linger_s: How long a query waits for others while the model is free, in seconds.
            pad_value: The number that ragged rows are padded with.
            pad_left: Whether they are padded on the left.
            only: Key -> the value that it has in the rows that are this teacher's, such as
                `{"teacher": 2}`. The model gets no other rows, and their answers say so. The one
                exception is the run's first query: if none of its rows is this teacher's, the
                model gets all of them, because it must be known what answers hold.
            give_up_after: A query that has ended so many replicas, from 2 on, is answered with a
                note of that, which is an error at the student, or leaves the row out. None tries
                for ever.
            devices: As for `serve`.
            timeout_s: How long to wait for the first query of a run, in seconds; None for an hour,
                or with `stay` a week.
            stay: Whether to wait for the next run of queries once this one has all of its answers,
                instead of returning: for replicas that something else starts and stops.
            progress: Called with the replica after each round of its loop that wrote answers.

        Returns:
            The replica, with its statistics.

        Raises:
            ConfigurationError: An argument has the wrong type or value; the teacher was started; the
                sink is not a `KafkaSink`; or the queries are of other inputs than this teacher's.
            SinkExists: The topic holds answers of another model, or has too few partitions.
            SequenceGap: The topic of queries has lost records.
            SchemaError: The model returned other rows than it got, or no knowledge.
            QueryUnanswered: The first query of the run ended too many replicas.
            WaitTimeout: No query came in time.
            TransportError: Brokers or registry failed.
            Exception: Whatever the model raised.
        """
        sink = self._sink
        if self._run is not None or self._closed:
            raise ConfigurationError(
                "the teacher was started already; a Teacher that answers is not started before"
            )
        if not isinstance(sink, KafkaSink) or sink.settings.transactional:
            raise ConfigurationError(
                f"answers go to a topic, without transactions: give a KafkaSink, not {sink!r}"
            )
        name = replica_group(sink.label) if run is None else f"{replica_group(sink.label)}-{run}"
        settings = AnswerSettings(
            group=GroupSettings(
                name=name if group is None else group,
                protocol=group_protocol,
                session_timeout_s=session_timeout_s,
            ),
            budget=Budget(rows=max_rows, elements=max_tokens, linger_s=linger_s),
            pad_value=pad_value,
            pad_left=pad_left,
            only=_checked_only(only),
            give_up_after=None
            if give_up_after is None
            else check_whole_number("give_up_after", give_up_after, least=2),
            run=None if run is None else check_text("run", run),
        )
        if timeout_s is None:
            timeout_s = _STAY_S if stay else _FIRST_QUERY_S
        timeout_s = check_seconds("timeout_s", timeout_s)
        check_topic(queries)
        if stay and run is not None:
            raise ConfigurationError(
                f"run={run!r} names the run to answer, and stay=True waits for others; give one"
            )
        devices_lent = Devices(model, devices, ThreadContext.current())
        done: str | None = None
        try:
            while True:
                found = _wait_for_run(sink.connection, queries, run, timeout_s, done)
                replica = self._answer_run(sink, queries, found, devices_lent, settings, progress)
                if replica.is_left:
                    log.warning(
                        "topic %s: a newer run of queries has begun behind %s, which is left",
                        queries,
                        found.stream,
                    )
                elif not stay:
                    return replica
                else:
                    log.info("topic %s: every query of %s has its answer", queries, found.stream)
                # Of a newer run, other partitions may have records before the first one has.
                done = found.stream.run_id
        finally:
            devices_lent.close()
            self.close()

    def _answer_run(
        self,
        sink: KafkaSink,
        queries: str,
        found: FoundRun,
        devices: Devices,
        settings: AnswerSettings,
        progress: Callable[[Replica], None],
    ) -> Replica:
        """Answer the queries of one run."""
        stream = _answers_to(found.stream, self._spec)
        topic = AnswerTopic(sink.connection, sink.label, sink.settings, stream)
        replica: Replica | None = None
        try:
            topic.open()
            replica = Replica(
                sink.connection, queries, found, topic, devices, self._options, settings
            )
            self._replica = replica
            replica.run(progress)
            return replica
        finally:
            # In this order: leaving the group writes what was sent, before the next owner looks.
            if replica is not None:
                replica.close()
            topic.close()


def _checked_only(only: Any) -> Mapping[str, int]:
    if only is None:
        return {}
    if not isinstance(only, Mapping) or not all(
        isinstance(key, str) and isinstance(value, int) for key, value in only.items()
    ):
        raise ConfigurationError(
            f"only is {only!r}; it must be a mapping of keys to whole numbers, such as "
            "{'teacher': 2}"
        )
    return dict(only)


def _answers_to(queries: Stream, spec: RunSpec) -> Stream:
    """Return the run of the answers to a run of queries: it has the same id, passes and records."""
    if spec.inputs_fingerprint not in ("", queries.inputs_fingerprint):
        raise ConfigurationError(
            f"{queries} has the inputs {queries.inputs_fingerprint!r}, and this teacher reads "
            f"{spec.inputs_fingerprint!r}; are the queries of another tokenizer?"
        )
    return replace(queries, teacher=spec.teacher, revision=spec.revision, head=spec.head)


def _wait_for_run(
    connection: KafkaConnection,
    topic: str,
    name: str | None,
    timeout_s: float,
    done: str | None = None,
) -> FoundRun:
    """Wait for a run of queries, and return it with one of its messages.

    Args:
        connection: The cluster.
        topic: The topic of queries.
        name: The run; None for the newest.
        timeout_s: How long to wait.
        done: The run that is not waited for: it has all of its answers, or was left.

    Raises:
        WaitTimeout: It did not begin in time.
    """
    wait = Wait(
        f"a query in topic {topic} at {connection.where}",
        timeout_s=timeout_s,
        log=log,
        hint="is the student running, and is this the topic that it writes to?",
    )
    admin, runs = KafkaTopic(connection, topic), TopicRuns(connection, topic)

    def look() -> FoundRun | None:
        if not admin.partitions():
            admin.check_visible()
            return None
        found = runs.newest() if name is None else runs.named(name, wait)
        return None if found is not None and found.stream.run_id == done else found

    while (found := through_outages(look, wait)) is None:
        wait.tick()
        # Where a run is done the next may begin much later, and each look reads a record.
        time.sleep(_LOOK_S if done is None else _NEXT_RUN_LOOK_S)
    return found
