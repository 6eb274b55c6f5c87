"""Calls of the model: some queries, on a device's thread, and what it returns for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tutelage.producers.answers.asked import Asked
from tutelage.producers.answers.inputs import model_batch
from tutelage.producers.answers.query import Query
from tutelage.producers.answers.settings import AnswerSettings
from tutelage.producers.answers.topic import AnswerTopic
from tutelage.producers.stages.devices import Devices, Forwarded
from tutelage.producers.stages.encode_vectors import encode_vectors
from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.places import Place
from tutelage.producers.stages.transfer import start_transfers
from tutelage.producers.wire_options import WireOptions
from tutelage.schemas.errors import SchemaError
from tutelage.schemas.queries import ANSWERED, QUERY_ID, QUERY_STATUS
from tutelage.schemas.record import Array, Description, Stream


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Queries that the model gets in one call. It is not called if they have no rows for it.

    Args:
        asked: Its queries.
        rows: How many rows the model gets.
        future: What it gives.
    """

    asked: Sequence[Asked]
    rows: int
    future: Future[Forwarded] = field(repr=False)

    def batch(self) -> HostBatch | None:
        """Return what the model returned; None if it was not called.

        Raises:
            SchemaError: It has other rows than the queries.
            Exception: What the model raised.
        """
        found: HostBatch | None = None
        for found in self.future.result().batches:
            if found.rows != self.rows:
                raise SchemaError(
                    f"the model returned {found.rows} rows for {self.rows} rows of queries; it "
                    "must return one row for each, in their order"
                )
        return found


class Calls:
    """The calls of the model that are not written yet, in order.

    Args:
        devices: The replicas of the model on this machine.
        options: How keys travel.
        settings: The format of ragged keys.
        queries: The run of queries, and what they hold.
        answers: Where answers go, and what they hold.
    """

    def __init__(
        self,
        devices: Devices,
        options: WireOptions,
        settings: AnswerSettings,
        queries: tuple[Stream, Description],
        answers: AnswerTopic,
    ) -> None:
        self._devices = devices
        self._options = options
        self._settings = settings
        self._stream, self._description = queries
        self._answers = answers
        self._calls: deque[Call] = deque()
        self._alone: Call | None = None
        #: How often the model was called.
        self.started = 0
        #: Elements of the longest ragged key that it was given, such as tokens, without padding.
        self.elements = 0

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def first(self) -> Call | None:
        """The call that was begun first; None if there is none."""
        return self._calls[0] if self._calls else None

    def of_first_query(self, owns: Callable[[Query], bool]) -> Call | None:
        """Return the call that begins with the run's first query, wherever it is; None without one.

        Args:
            owns: Whether a query is still to be answered here.
        """
        for call in self._calls:
            query = call.asked[0].query
            if query.is_first_of_run and owns(query):
                return call
        return None

    def pop(self) -> Call:
        """Take the call that was begun first."""
        return self._calls.popleft()

    @property
    def running(self) -> int:
        """How many calls the model is busy with, or will be."""
        return sum(not call.future.done() for call in self._calls)

    def has_room(self, *, full: bool, alone: bool) -> bool:
        """Whether another call may begin: a device is free, or a full call can wait for one.

        Args:
            full: Whether the next call is. While every device is busy, more queries may join a
                call that is not full, at no cost.
            alone: Whether the next call must be the only one.
        """
        if alone or (self._alone is not None and not self._alone.future.done()):
            return not self.running
        devices, running = len(self._devices), self.running
        waiting = sum(call.rows > 0 for call in self._calls)
        return waiting <= 2 * devices and (running < devices or (running == devices and full))

    def start(self, asked: Sequence[Asked], *, alone: bool) -> None:
        """Call the model, if it gets a row of these queries.

        Args:
            asked: The queries.
            alone: Whether no other call may begin before this one is done.
        """
        rows = sum(int(each.computed.sum()) for each in asked)
        if rows:
            self.started += 1
            self._calls.append(Call(asked=asked, rows=rows, future=self._called(asked)))
            self._alone = self._calls[-1] if alone else None
            return
        done: Future[Forwarded] = Future()
        done.set_result(Forwarded(batches=[], input_rows=[], seconds=0.0))
        self._calls.append(Call(asked=asked, rows=0, future=done))

    def _called(self, asked: Sequence[Asked]) -> Future[Forwarded]:
        batch = model_batch(
            [each.columns for each in asked if each.computed.any()],
            self._description,
            pad_value=self._settings.pad_value,
            pad_left=self._settings.pad_left,
        )
        ragged = [spec.key for spec in self._description.specs if spec.ragged]
        self.elements += max((int(batch[f"{key}.lengths"].sum()) for key in ragged), default=0)
        head = asked[0].query.head
        place = Place(
            stream=f"{self._answers.stream.teacher}\0{self._stream.run_id}",
            pass_index=head.pass_index,
            batch=head.sequence,
            numbers=self._numbers(asked),
        )
        return self._devices.submit(
            [batch],
            self._transfer,
            encode=lambda _, knowledge: self._encode(knowledge, batch, place),
            owning=True,
        )

    def _numbers(self, asked: Sequence[Asked]) -> Array:
        """The numbers of the rows in their pass, int64: they decide what is drawn."""
        size = self._stream.rows_per_record
        return np.concatenate([each.numbers(size) for each in asked])

    def _encode(self, knowledge: Any, batch: dict[str, torch.Tensor], place: Place) -> Any:
        """Add the ids of the queries to what the model returned, and encode its vectors."""
        if isinstance(knowledge, Mapping) and place.numbers is not None:
            if QUERY_STATUS in knowledge:
                raise SchemaError(f"the key {QUERY_STATUS!r} is made here; return the others")
            status = torch.full((len(place.numbers),), ANSWERED, dtype=torch.int8)
            ids = {QUERY_ID: batch[QUERY_ID]} if QUERY_ID in batch else {}
            knowledge = {**knowledge, **ids, QUERY_STATUS: status}
        return encode_vectors(knowledge, self._options, self._answers.description, place)

    def _transfer(self, group: list[Any], cuda_stream: Any) -> list[HostBatch]:
        return start_transfers(group, self._options, self._answers.description, cuda_stream)
