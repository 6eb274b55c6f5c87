"""Groups of batches -> knowledge on the host, in the order of the inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from tutelage.producers.stages.columns import nbytes_of
from tutelage.producers.stages.devices import Devices, EncodeVectors, Forwarded, Transfer
from tutelage.producers.stages.places import Place, Places
from tutelage.producers.stages.read_ahead import GROUP_SECONDS, MAX_GROUP, ReadAhead
from tutelage.schemas.errors import SchemaError

# Batches move between threads in groups of about this size: small batches share the cost of a
# hand-over, and large ones do not wait for each other.
GROUP_BYTES = 4 << 20


class ForwardStage:
    """Runs the model over groups of batches, two groups per device at a time.

    Guarantee: knowledge leaves in the order of the inputs. What the inputs raise is raised behind
    the knowledge of the batches before it.

    Args:
        reader: Reads the inputs' batches, in groups.
        devices: The replicas of the model.
        places: Numbers the batches and their rows, if vectors are encoded.
        encode: Encodes the vectors of a batch's knowledge, given its place.
        transfer: Copies knowledge to the host.
        keeps_rows: Whether knowledge has as many rows as its input; None if the first batch
            decides.
    """

    def __init__(
        self,
        reader: ReadAhead,
        devices: Devices,
        places: Places | None,
        encode: Callable[[Place, Any], Any],
        transfer: Transfer,
        *,
        keeps_rows: bool | None,
    ) -> None:
        self._reader = reader
        self._devices = devices
        self._places = places
        self._encode = encode
        self._transfer = transfer
        self._window = 2 * len(devices)
        self._futures: deque[Future[Forwarded]] = deque()
        self.keeps_rows = keeps_rows
        self._failed: Exception | None = None

    def poll(self, *, eager: bool) -> Forwarded | None:
        """Return the knowledge of the next group if it is there, and begin with other groups."""
        self._fill(eager=eager)
        if not self._futures and self._failed is not None:
            raise self._failed
        if not self._futures or not self._futures[0].done():
            return None
        forwarded = self._futures.popleft().result()
        self._check_rows(forwarded)
        self._adapt_group_size(forwarded)
        self._fill(eager=False)
        return forwarded

    def pending(self) -> Sequence[Future[Any]]:
        """The group that is read, if there is room for it, and the oldest that is computed."""
        group = self._next_group()
        return [future for future in (group, *list(self._futures)[:1]) if future is not None]

    @property
    def waits_for_inputs(self) -> bool:
        """Whether nothing is computed because no batch was read yet."""
        return not self._futures and not self._reader.exhausted

    def submit(self, group: list[Any]) -> None:
        """Begin with a group of batches."""
        if group:
            self._futures.append(self._submitted(group))

    def first(self, batch: Any) -> Future[Forwarded]:
        """Begin with the first batch of a continued pass; see `check_rows`."""
        return self._submitted([batch])

    def pass_over(self, batch: Any) -> None:
        """Count a batch that is not computed."""
        if self._places is not None:
            self._places.next(batch)

    def _submitted(self, group: list[Any]) -> Future[Forwarded]:
        encode: EncodeVectors | None = None
        if self._places is not None:
            places = [self._places.next(batch) for batch in group]

            def encode(index: int, knowledge: Any) -> Any:
                return self._encode(places[index], knowledge)

        return self._devices.submit(
            group,
            self._transfer,
            encode=encode,
            owning=self._reader.blocked,
            counts_rows=self.keeps_rows is not False,
        )

    def _fill(self, *, eager: bool) -> None:
        while (group := self._next_group()) is not None:
            if group.done():
                try:
                    self.submit(self._reader.take())
                except Exception as error:  # whatever the inputs raise
                    self._failed = error
            elif eager:
                # Batches that were read are used now instead of when their group is full.
                self.submit(self._reader.take_part())
                return
            else:
                return

    def _next_group(self) -> Future[list[Any]] | None:
        if len(self._futures) >= self._window or self._failed is not None:
            return None
        if self._reader.waits and not self._futures:
            self._reader.release()
        return self._reader.next_group()

    def _check_rows(self, forwarded: Forwarded) -> None:
        if self.keeps_rows is False:
            return
        counts = [count for batch in forwarded.batches for count in batch.counts]
        for input_rows, rows in zip(forwarded.input_rows, counts, strict=True):
            self.check_rows(input_rows, rows)

    def check_rows(self, input_rows: int | None, rows: int) -> None:
        """Compare a batch's knowledge rows with its input rows.

        The first batch decides whether they are equal, unless the user has said so.

        Raises:
            SchemaError: They were equal, and differ in this batch.
        """
        if self.keeps_rows is None:
            self.keeps_rows = input_rows == rows
        if self.keeps_rows and input_rows is not None and input_rows != rows:
            raise SchemaError(
                f"the model gave {rows} rows for a batch of {input_rows}, after it gave as many as "
                "the batch had; if it drops or adds rows on purpose, say so: "
                "serve(..., keeps_rows=False)"
            )

    def _adapt_group_size(self, forwarded: Forwarded) -> None:
        """Read groups of about a millisecond or 4 MB, growing to twice the size at most."""
        reader = self._reader
        batches = max(1, sum(len(batch.counts) for batch in forwarded.batches))
        nbytes = sum(
            nbytes_of(column) for batch in forwarded.batches for column in batch.columns().values()
        )
        reader.group_size = max(
            1,
            min(
                MAX_GROUP,
                2 * reader.group_size,
                int(GROUP_SECONDS * batches / max(forwarded.seconds, 1e-9)),
                GROUP_BYTES * batches // max(1, nbytes),
            ),
        )
