"""`Student`: what users hold. Register teachers, start, and iterate over what they know, merged."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tutelage.consumers.agreement import names_of, refuse_unlike
from tutelage.consumers.batches import Batch
from tutelage.consumers.channel import Closed
from tutelage.consumers.checkpoint import load_checkpoint, save_checkpoint
from tutelage.consumers.conversation import numbered, send
from tutelage.consumers.merge import Merge
from tutelage.consumers.pipeline import Merged, Pipeline, PipelineOptions
from tutelage.consumers.place import Place, place_of, settings_of, state_of
from tutelage.consumers.ragged import RaggedOptions
from tutelage.consumers.rebatch import CHUNK_BYTES
from tutelage.consumers.source import Opened, Source
from tutelage.consumers.strategies import MergeStrategy, parsed
from tutelage.consumers.tally import Standing, StudentTally, TeacherTally, standings_of
from tutelage.schemas.errors import ConfigurationError, CorruptData
from tutelage.schemas.record import Description
from tutelage.schemas.waiting import Activity, Doing, Wait

if TYPE_CHECKING:
    from tutelage.consumers.dataset import KnowledgeDataset

log = logging.getLogger(__name__)

_POLL_S = 0.25
_COMMIT_EVERY_S = 0.1


class Student:
    """Merges what its teachers wrote and gives it as batches of torch tensors.

    Guarantee: the batches are the same, bit for bit and in the same order, whether a teacher's stream comes from a topic or a file, in
    whatever batches and partitions it was written, and whatever was killed and resumed meanwhile; or an error says what is wrong where.

    merge               key -> strategy, for keys several teachers have: "sum", "mean", "weighted_mean:0.7,0.3", "max", "min", "stack",
                        "concat", "first", or a function of a list of tensors
    sample_id           a key to be compared between teachers, row by row
    on_length_mismatch  "error", or "truncate" to end at the shortest teacher
    allow_other_inputs  merge teachers although the fingerprints of their inputs differ
    ragged              how ragged keys are given; padded with zeros on the right, with lengths under `KEY.lengths`, unless said otherwise
    timeout_s           how long to wait for a teacher's next record, and for a topic to appear
    prefetch            merged batches kept ready, at least; small ones come by the dozen
    budget_bytes        records read ahead, per teacher
    pin_memory          give batches in pinned memory, for fast copies to a GPU
    """

    def __init__(
        self,
        merge: Mapping[str, MergeStrategy] | None = None,
        *,
        sample_id: str | None = None,
        on_length_mismatch: str = "error",
        allow_other_inputs: bool = False,
        ragged: RaggedOptions | None = None,
        timeout_s: float = 600.0,
        prefetch: int = 4,
        budget_bytes: int = 64 << 20,
        pin_memory: bool = False,
    ) -> None:
        if on_length_mismatch not in ("error", "truncate"):
            raise ConfigurationError(f"on_length_mismatch is {on_length_mismatch!r}; it must be 'error' or 'truncate'")
        if min(prefetch, budget_bytes) < 1 or timeout_s <= 0:
            raise ConfigurationError("prefetch, budget_bytes and timeout_s must be above zero")
        self._strategies = dict(merge or {})
        for key, strategy in self._strategies.items():
            # Whether teachers have the key is known later; a misspelt strategy is known now.
            parsed(key, strategy)
        self._sample_id = sample_id
        self._truncate = on_length_mismatch == "truncate"
        self._allow_other_inputs = allow_other_inputs
        self._ragged = ragged
        self._timeout_s = timeout_s
        self._prefetch = prefetch
        self._budget_bytes = budget_bytes
        self._pin_memory = pin_memory
        self._sources: list[Source] = []
        self._started = False
        self._opened: list[Opened] | None = None
        self._merge: Merge | None = None
        self._pipeline: Pipeline | None = None
        self._place = Place()
        self._saved: Mapping[str, Any] | None = None
        self._dropped: list[dict[str, int]] = []
        self._doing = Doing("not started")
        self._at_hand = 0
        self._commits = False
        self._committed_s = 0.0
        self._pid = os.getpid()
        #: What was given so far and where the time went; and what came of each teacher, in the order of registration.
        self.tally = StudentTally()
        self.teacher_tallies: list[TeacherTally] = []

    def __repr__(self) -> str:
        place = self._place
        state = f"pass {place.pass_index}, {place.batches} batches delivered" if self._started else "not started"
        return f"Student(of {', '.join(source.name for source in self._sources) or 'no teachers'}; {state})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_opened": None, "_merge": None, "_pipeline": None}

    def __enter__(self) -> Student:
        if not self._started:
            self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def register_teacher(self, source: Source) -> int:
        """Add a teacher, before `start`; returns its number, from 0. The order is the order of merging.

        Raises ConfigurationError after `start`, or for a source that is registered already.
        """
        if self._started:
            raise ConfigurationError(f"{source.name}: teachers are registered before start()")
        if any(source is known or repr(source) == repr(known) for known in self._sources):
            raise ConfigurationError(f"{source.name} is registered already")
        self._sources.append(source)
        self.teacher_tallies.append(TeacherTally())
        return len(self._sources) - 1

    def start(self) -> None:
        """Begin. Does not wait: teachers may start later. ConfigurationError without teachers, or when started already."""
        if self._started:
            raise ConfigurationError("the student was started already")
        if not self._sources:
            raise ConfigurationError("the student has no teachers; register_teacher first")
        for source in self._sources:
            source.connect()
        self._started = True
        self._doing.now("started, and not asked for knowledge yet", begun=False)

    @property
    def description(self) -> Description:
        """What a merged batch holds: key -> dtype and row shape. Waits until every teacher's stream is there."""
        return self._merging().description

    @property
    def passes(self) -> int:
        """How many passes the teachers write. Waits until every teacher's stream is there."""
        self._merging()
        return self._streams()[0].stream.passes

    @property
    def queue_size(self) -> int:
        """Merged batches that are ready to be taken now (Pantheon's get_knowledge_qsize)."""
        return self._pipeline.ready + self._at_hand if self._pipeline is not None else 0

    @property
    def dropped(self) -> list[dict[str, int]]:
        """Per teacher, what was dropped in the pass under way or just over: records written twice, and a dying writer's."""
        return self._pipeline.dropped if self._pipeline is not None else self._dropped

    @property
    def pass_index(self) -> int:
        """The pass that is read, or comes next, from 0."""
        return self._place.pass_index

    @property
    def activity(self) -> Activity:
        """What the student does right now. May be asked from any thread."""
        return self._doing.activity

    def standings(self) -> list[Standing]:
        """How each teacher's stream stands, as far as it is known. May be asked from any thread; waits for nothing."""
        opened, pipeline = self._opened, self._pipeline
        if opened is None:
            return []
        queued = pipeline.queued_bytes if pipeline is not None else [0] * len(opened)
        return standings_of(opened, self._sources, self.teacher_tallies, self._place.seen(len(opened)), queued)

    @property
    def batches_delivered(self) -> int:
        """Batches of the pass under way that were given, before a resume too."""
        return self._place.batches

    def knowledge(
        self, batch_size: int, *, drop_last: bool = False, pass_index: int | None = None, own_memory: bool = False
    ) -> Iterator[Batch]:
        """One pass, as dicts of key -> tensor [batch_size, ...]; only the last batch is shorter, and is left out with `drop_last`.

        Each call gives the pass after the last one that was read to its end, and begins again with the first after the last; a pass
        left early is given again from its beginning, unless `load_state_dict` came between. `pass_index` asks for a certain one.

        Batches that came together are views of one piece of memory, of about 4 MB, which is free again when none of them is held any
        more: clone what is kept for long or saved with torch.save, or ask for `own_memory` for each.
        """
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1")
        self._refuse_second()
        merge = self._merging()
        place = self._next_place(batch_size, drop_last, pass_index)
        options = PipelineOptions(
            batch_size=batch_size,
            drop_last=drop_last,
            truncate=self._truncate,
            prefetch=self._prefetch,
            budget_bytes=self._budget_bytes,
            chunk_bytes=0 if own_memory else CHUNK_BYTES,
        )
        self._commits = any(source.commits for source in self._sources)
        self._place = place
        return self._iterate(merge, options, place)

    def _iterate(self, merge: Merge, options: PipelineOptions, place: Place) -> Iterator[Batch]:
        self._refuse_second()
        self._place = place
        self._pipeline = pipeline = Pipeline(
            self._sources, self._streams(), place.of(len(self._sources)), merge, options, first_row=place.rows,
            tally=self.tally, teacher_tallies=self.teacher_tallies,
        )  # fmt: skip
        batch_size, tally = options.batch_size, self.tally
        try:
            while (batches := (merged := self._awaited(pipeline)).batches) is not None:
                left = len(batches)
                tally.batches += left
                tally.rows += batches.rows
                began = time.monotonic()
                for index, batch in enumerate(batches):
                    # By hand what could be a method: small batches come by the hundred thousand a second.
                    left -= 1
                    place.batches += 1
                    place.rows += batch_size if left else batches.rows - index * batch_size
                    place.merged, place.index = merged, index
                    self._at_hand = left
                    if self._commits:
                        self._commit(place, more=left > 0)
                    yield batch
                # Kept here, its memory could not be used again while the next ones are awaited.
                del batch, batches
                tally.training_s += time.monotonic() - began
            self._place = place.following(merged.positions)
            if self._commits:
                self._commit(self._place)
        finally:
            self._at_hand = 0
            self._doing.now("between passes")
            self._dropped = pipeline.dropped
            pipeline.close()
            if self._pipeline is pipeline:
                self._pipeline = None

    def _commit(self, place: Place, *, more: bool = False) -> None:
        """Tell whoever watches how far the student is: now and then, and before it may have to wait."""
        now = time.monotonic()
        if more and now - self._committed_s < _COMMIT_EVERY_S:
            return
        self._committed_s = now
        for source, position in zip(self._sources, place.of(len(self._sources)), strict=True):
            source.commit(position)

    def _awaited(self, pipeline: Pipeline) -> Merged:
        began = time.monotonic()
        self._doing.now("awaiting the next batch", beats=True)
        try:
            while True:
                self._doing.beat()
                try:
                    merged = pipeline.get(_POLL_S)
                except Closed as error:
                    raise ConfigurationError("the student was closed while it was iterated over") from error
                if merged is not None:
                    return merged
                if self._commits:
                    # What a broker did not take: a teacher may be waiting for it, as this student is for the teacher.
                    self._commit(self._place)
                what = pipeline.waiting_for
                if self._doing.wait is None or self._doing.wait.what != what:
                    hint = "its teacher may have stopped; started again, it goes on"
                    self._doing.wait = Wait(what, timeout_s=self._timeout_s, log=log, hint=hint)
                self._doing.wait.tick()
        finally:
            self._doing.wait = None
            self._doing.now("training on a batch")
            waited_s = self._doing.since_s - began
            self.tally.starved_s += waited_s
            self.tally.longest_wait_s = max(self.tally.longest_wait_s, waited_s)

    def _next_place(self, batch_size: int, drop_last: bool, pass_index: int | None) -> Place:
        place = self._place_now()
        if self._saved is not None:
            place.refuse_unlike(batch_size, drop_last, pass_index)
        else:
            # A pass that was left early begins again.
            place = place.begun_again() if place.batches else replace(place)
        place = place.within(self._streams()[0].stream.passes, pass_index)
        place.batch_size, place.drop_last = batch_size, drop_last
        self._saved = None
        return place

    def _place_now(self) -> Place:
        saved = self._saved
        return self._place if saved is None else place_of(saved, self._sources, self._streams(), self._settings())

    def commit(self) -> None:
        """Tell the sources' groups where the student is; while it reads it does so by itself."""
        self._merging()
        self._commit(self._place_now())

    def _settings(self) -> dict[str, Any]:
        ragged = self._ragged or RaggedOptions()
        return settings_of(self._strategies, sample_id=self._sample_id, truncate=self._truncate, ragged=ragged)

    def _merging(self) -> Merge:
        self._refuse_unstarted()
        if self._pid != os.getpid():
            # In a forked DataLoader worker: the threads stayed in the parent, and sources open their own clients.
            self._pid, self._opened, self._pipeline = os.getpid(), None, None
        if self._opened is None or self._merge is None:
            opened = []
            for source in self._sources:
                self._doing.now(f"waiting for {source.name} to appear", begun=False)
                opened.append(source.open(self._timeout_s))
            self._doing.now("all teachers' streams are there")
            refuse_unlike(opened, allow_other_inputs=self._allow_other_inputs)
            self._merge = Merge(
                names_of(opened),
                [found.description for found in opened],
                self._strategies,
                sample_id=self._sample_id,
                ragged=self._ragged,
                pin_memory=self._pin_memory,
            )
            self._opened = opened
        return self._merge

    def _refuse_unstarted(self) -> None:
        if not self._started:
            raise ConfigurationError("the student is not started; use `with student:` or start()")

    def _refuse_second(self) -> None:
        if self._pipeline is not None and self._pid == os.getpid():
            raise ConfigurationError("another iterator of this student is under way; close it, or leave its loop, first")

    def _streams(self) -> list[Opened]:
        assert self._opened is not None, "streams are opened before they are used"
        return self._opened

    def dataset(self, batch_size: int, *, drop_last: bool = False) -> KnowledgeDataset:
        """The same batches as a torch IterableDataset, one pass each time it is iterated; use DataLoader(dataset, batch_size=None)."""
        from tutelage.consumers.dataset import KnowledgeDataset

        return KnowledgeDataset(self, batch_size, drop_last=drop_last)

    def send(self, value: Any, teachers: Sequence[int] | None = None) -> None:
        """Send a control message to all teachers, or to those with these numbers. Teachers of files are passed over with a warning."""
        self._refuse_unstarted()
        send(self._sources, value, teachers)

    def recv(self, teacher: int, *, timeout_s: float | None = None) -> Any:
        """The next control message of the teacher with that number, tensors as numpy arrays. WaitTimeout if none comes."""
        self._refuse_unstarted()
        return numbered(self._sources, teacher).recv(timeout_s or self._timeout_s)

    def state_dict(self) -> dict[str, Any]:
        """Where the student is, behind the last batch it delivered: JSON-like, for `load_state_dict` or `save`."""
        if self._saved is not None:
            return dict(self._saved)
        self._merging()
        return state_of(self._place, self._sources, self._streams(), self._settings())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state: the next `knowledge` gives the batches behind it. Checked against the sources then.

        Raises ConfigurationError if the number of teachers differs; `knowledge` raises RunMismatch or TopicIdentityError where the
        state is of other streams or another batch size.
        """
        sources = state.get("sources")
        if not isinstance(sources, list) or not all(isinstance(part, Mapping) for part in sources):
            raise CorruptData("the state names no sources; it is no student's")
        if len(sources) != len(self._sources):
            raise ConfigurationError(f"the checkpoint has {len(sources)} teachers, the student {len(self._sources)}")
        self._saved = dict(state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to a file, atomically."""
        save_checkpoint(path, self.state_dict())
        self.tally.saved = time.time()

    def load(self, path: str | os.PathLike[str]) -> None:
        """`load_state_dict` from a file."""
        self.load_state_dict(load_checkpoint(path))

    def close(self) -> None:
        """End all threads and release the sources. May be called twice; `start` begins anew."""
        if self._pipeline is not None and self._pid == os.getpid():
            self._pipeline.close()
            self._pipeline = None
        for source in self._sources:
            source.close()
        self._opened = self._merge = None
        self._started = False
