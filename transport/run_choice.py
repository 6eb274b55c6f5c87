"""Chooses the run of a topic that a student reads: the newest, a named one, or a checkpoint's."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from confluent_kafka import Message

from tutelage.schemas.errors import ConfigurationError, RetentionLoss, RunMismatch
from tutelage.schemas.headers import stream_from_headers
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.printable import printable
from tutelage.schemas.record import Stream
from tutelage.transport.connection import KafkaConnection
from tutelage.transport.newest_run import NewestRun
from tutelage.transport.outages import through_outages
from tutelage.transport.runs import FoundRun, TopicRuns
from tutelage.transport.topic_admin import KafkaTopic
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0


class RunChoice:
    """Finds the run to read in one topic. Holds no client and can be pickled.

    Args:
        connection: How to reach the cluster.
        topic: The topic.
        run: The id of the run to read; None for the newest.
        limits: The most that a stream may ask for.
    """

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
        #: How large records, schemas and shapes may be.
        self.limits = limits
        self._resumed_from: dict[str, str] | None = None

    def resume(self, run_id: str, identity: Mapping[str, str]) -> None:
        """Choose a checkpoint's run, unless a run was named.

        Args:
            run_id: The checkpoint's run.
            identity: The identity of the topic that the checkpoint is of.
        """
        if self._run is None:
            self._run, self._resumed_from = run_id, dict(identity)

    def name(self, run_id: str, opened: Stream | None) -> None:
        """Read this run, and wait for it.

        Args:
            run_id: The run's name.
            opened: The run that is being read; None before one is.

        Raises:
            ConfigurationError: Another run was named, or is being read.
            RunMismatch: A checkpoint of another run is resumed.
        """
        if self.is_resumed and self._run != run_id:
            raise RunMismatch(
                f"topic {self._topic} is to be read for run {run_id}, but the checkpoint is of run "
                f"{self._run}; go on with that run, or begin without the checkpoint"
            )
        if self._run not in (None, run_id):
            raise ConfigurationError(
                f"topic {self._topic} is to be read for run {run_id}, but the source was given "
                f"run={self._run!r}"
            )
        if opened is not None and opened.run_id != run_id:
            raise ConfigurationError(
                f"topic {self._topic} is to be read for run {run_id}, but was opened for {opened} "
                "before: whatever asks a student about its streams (description, passes, "
                "state_dict, knowledge) opens them. Create OnPolicy first"
            )
        self._run = self._run or run_id

    @property
    def named(self) -> str | None:
        """The id of the run that the user named; None for the newest or a checkpoint's."""
        return self._run if self._resumed_from is None else None

    @property
    def awaited(self) -> str:
        """What the student waits for, in words."""
        run = "" if self._run is None else f"run {self._run} in "
        return f"the first record of {run}topic {self._topic}"

    @property
    def is_resumed(self) -> bool:
        """Whether the run is a checkpoint's."""
        return self._resumed_from is not None

    def newest(self, admin: KafkaTopic, wait: Wait) -> FoundRun | None:
        """Return the topic's newest run, or None if the run to read is another or there is none.

        Args:
            admin: Asks about the topic.
            wait: How long to wait for brokers.
        """
        return None if self._run is not None else self._newest(admin, wait)

    def find(
        self,
        first: Message,
        admin: KafkaTopic,
        *,
        alone: bool,
        identity: Mapping[str, str],
        wait: Wait,
    ) -> FoundRun:
        """Return the run to read, and wait for it.

        Args:
            first: A message of the topic; becomes the result's message if it belongs to the run.
            admin: Asks about the topic.
            alone: Whether the topic held no other message, so that its run is the newest.
            identity: The topic's identity.
            wait: How long to wait for a named run that has not begun.

        Raises:
            RetentionLoss: The checkpoint's run is no longer in the topic.
            WaitTimeout: The named run has not begun in time.
        """
        where = f"topic {self._topic}, partition {first.partition()}, offset {first.offset()}"
        found = FoundRun(
            stream=stream_from_headers(first.headers() or (), where, self.limits), message=first
        )
        if self._run is None:
            newest = None if alone else self._newest(admin, wait)
            return (
                found if newest is None or newest.stream.run_id == found.stream.run_id else newest
            )
        name = self._run
        if self._resumed_from is not None and not alone:
            newest = self._newest(admin, wait)
            if newest is not None and newest.stream.run_id != name:
                log.warning(
                    "topic %s: reading run %s of the checkpoint; the newest run is %s",
                    self._topic,
                    printable(name),
                    newest.stream,
                )
        runs = TopicRuns(self._connection, self._topic, self.limits, admin=admin)
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

    def _newest(self, admin: KafkaTopic, wait: Wait) -> FoundRun | None:
        newest = NewestRun(self._connection, self._topic, self.limits, admin)
        return through_outages(newest.find, wait)

    def _check_kept(self, identity: Mapping[str, str]) -> None:
        if self._resumed_from == dict(identity):
            raise RetentionLoss(
                f"run {self._run} of the checkpoint is no longer in topic {self._topic}; it was "
                "deleted, "
                "for example by retention. Begin without the checkpoint to read the newest run"
            )
