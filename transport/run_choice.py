"""Which run of a topic a student reads: the newest, the one that is named, or the one that a checkpoint was taken of."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from confluent_kafka import Message

from tutelage.schemas.errors import RetentionLoss
from tutelage.schemas.headers import stream_from_headers
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.printable import printable
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import through_outages
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0


class RunChoice:
    """Finds the run to read in one topic. Holds no client: may be pickled."""

    def __init__(
        self,
        connection: KafkaConnection,
        topic: str,
        run: str | None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._run = run
        self._limits = limits
        self._resumed_from: dict[str, str] | None = None

    def resume(self, run_id: str, identity: Mapping[str, str]) -> None:
        """Choose the run of a checkpoint, which was taken from a topic of this identity, unless a run was named."""
        if self._run is None:
            self._run, self._resumed_from = run_id, dict(identity)

    @property
    def named(self) -> str | None:
        """The run that was asked for; None for the newest, or a checkpoint's."""
        return self._run if self._resumed_from is None else None

    @property
    def awaited(self) -> str:
        """What is waited for, in words."""
        return f"the first record of {'' if self._run is None else f'run {self._run} in '}topic {self._topic}"

    def find(
        self, first: Message, *, alone: bool, identity: Mapping[str, str], wait: Wait
    ) -> FoundRun:
        """The run to read, waited for.

        Args:
            first: A message of the topic; the result's own where it belongs to the run.
            alone: Whether no other message was there when it came, so that its run is the newest.
            identity: The topic's identity.
            wait: How long to wait for a run that is named and not there yet.

        Raises:
            RetentionLoss: The run of a checkpoint is no longer in the topic.
        """
        where = f"topic {self._topic}, partition {first.partition()}, offset {first.offset()}"
        found = FoundRun(
            stream=stream_from_headers(first.headers() or (), where, self._limits), message=first
        )
        runs = TopicRuns(self._connection, self._topic, self._limits)
        if self._run is None:
            newest = None if alone else through_outages(runs.newest, wait)
            return (
                found if newest is None or newest.stream.run_id == found.stream.run_id else newest
            )
        name = self._run
        if self._resumed_from is not None and not alone:
            newest = through_outages(runs.newest, wait)
            if newest is not None and newest.stream.run_id != name:
                log.warning(
                    "topic %s: the checkpoint is of run %s, which is read; the newest run is %s",
                    self._topic,
                    printable(name),
                    newest.stream,
                )
        while found.stream.run_id != name:
            named = through_outages(lambda: runs.named(name, wait), wait)
            if named is not None:
                return named
            if self._resumed_from is not None:
                self._check_kept(identity)
                # The checkpoint is of another topic. `place_of` compares them and raises.
                return found
            wait.tick()
            time.sleep(_LOOK_AGAIN_S)
        return found

    def begins(self, run: FoundRun, partitions: int, wait: Wait) -> list[int]:
        """Per partition, an offset at or before the run's first record; `partitions` is how many the topic has."""
        return through_outages(
            lambda: TopicRuns(self._connection, self._topic).starts(run, partitions), wait
        )

    def _check_kept(self, identity: Mapping[str, str]) -> None:
        if self._resumed_from == dict(identity):
            raise RetentionLoss(
                f"run {self._run}, which the checkpoint was taken of, is no longer in topic {self._topic}; it was deleted, by retention say. Begin "
                "without the checkpoint to read the newest run"
            )
