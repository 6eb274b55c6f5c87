"""`Student`: what users hold. Register teachers, start, and iterate over what they know, merged."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from tutelage.consumers.batch_request import BatchRequest
from tutelage.consumers.chain import PassOptions
from tutelage.consumers.checkpoints import Checkpoints
from tutelage.consumers.commits import Commits
from tutelage.consumers.control_messages import ControlMessages
from tutelage.consumers.delivery import Delivery, KnowledgeIterator
from tutelage.consumers.heads import Heads
from tutelage.consumers.inspection import Inspection
from tutelage.consumers.loaders import Loaders
from tutelage.consumers.open_streams import open_streams
from tutelage.consumers.pass_chain import PassChain, begin_chain
from tutelage.consumers.ranks import say_amplification
from tutelage.consumers.resume_state import ResumeState
from tutelage.consumers.settings import Settings
from tutelage.consumers.shard import ShardArgument
from tutelage.consumers.shuffle import Shuffle
from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.stages.merge import Merge
from tutelage.consumers.stages.ragged import RaggedFormat
from tutelage.consumers.stages.strategies import MergeStrategy
from tutelage.consumers.state_keeper import StateKeeper
from tutelage.consumers.stats import StreamStats, StudentStats
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits
from tutelage.schemas.record import Description
from tutelage.transport.status import Status

if TYPE_CHECKING:
    from tutelage.consumers.progress import Progress
    from tutelage.consumers.worker_epochs import WorkerEpochs


class Student(Checkpoints, ControlMessages, Heads, Inspection, Loaders):
    """Merges what its teachers wrote and gives it as batches of torch tensors.

    Guarantee: the batches are the same, bit for bit and in the same order, whether a teacher's
    stream comes from a topic or a file, in whatever batches and partitions it was written, and
    whatever was killed and resumed meanwhile; or an error says what is wrong where. Use it as a
    context manager: entering starts it, leaving closes it.

    Args:
        merge: Key -> strategy, for keys that several teachers have: `"sum"`, `"mean"`,
            `"weighted_mean:0.7,0.3"`, `"max"`, `"min"`, `"stack"`, `"concat"`, `"first"`,
            `"same"`, `"answered"`, or a function of a list of tensors `[rows, ...]`, one a teacher, to one.
        sample_id: A key that every teacher has, with values that must be equal row by row.
        on_length_mismatch: `"error"`, or `"truncate"` to end a pass at its shortest teacher.
        on_unanswered: `"error"`, or `"skip"` to leave out the rows of queries that no teacher answered,
            so that their batch has fewer rows, or none.
        allow_other_inputs: Merge teachers although the fingerprints of their inputs differ.
        ragged_format: How ragged keys are given. If not given, padded with 0 on the right, with their
            lengths under `KEY.lengths`.
        timeout_s: Seconds to wait for a topic to appear, and for a teacher's next record.
        prefetch: Merged batches to keep ready, at least.
        budget_bytes: Bytes of records to read ahead, per teacher.
        pin_memory: Give batches in pinned memory, for fast copies to a GPU.
        limits: `Limits(batch_bytes=...)` bounds the memory of one batch. A larger one raises
            BatchTooLarge before its memory is taken.
        shard: Which rank of a training program this student is: `(rank, ranks)`, one dimension of a
            device mesh, or `"auto"` for that of torch's process group or of torchrun. Each rank
            then gets its own rows of every batch. If not given, it gets all rows.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
        MergeError: A strategy does not exist.
    """

    def __init__(
        self,
        merge: Mapping[str, MergeStrategy] | None = None,
        *,
        sample_id: str | None = None,
        on_length_mismatch: Literal["error", "truncate"] = "error",
        on_unanswered: Literal["error", "skip"] = "error",
        allow_other_inputs: bool = False,
        ragged_format: RaggedFormat | None = None,
        timeout_s: float = 600.0,
        prefetch: int = 4,
        budget_bytes: int = 64 << 20,
        pin_memory: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        shard: ShardArgument = None,
    ) -> None:
        self._settings = Settings.from_arguments(
            merge, sample_id=sample_id, on_length_mismatch=on_length_mismatch, on_unanswered=on_unanswered,
            allow_other_inputs=allow_other_inputs, ragged=ragged_format, timeout_s=timeout_s, prefetch=prefetch,
            budget_bytes=budget_bytes, pin_memory=pin_memory, limits=limits, shard=shard,
        )  # fmt: skip
        self._sources: list[Source] = []
        self._started = False
        self._opened: list[StreamInfo] | None = None
        self._merge: Merge | None = None
        self._chain: PassChain | None = None
        self._delivery: Delivery | None = None
        self._keeper = StateKeeper()
        self._dropped: list[dict[str, int]] = []
        self._doing = Status("not started")
        self._pid = os.getpid()
        self._stats = StudentStats(self._keeper.progress)
        self._stream_stats: list[StreamStats] = []

    def __getstate__(self) -> dict[str, object]:
        left = dict.fromkeys(("_opened", "_merge", "_chain", "_delivery"))
        return {**self.__dict__, **left, "_settings": self._settings.resolved()}

    def __enter__(self) -> Student:
        if not self._started:
            self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def register_teacher(self, source: Source) -> int:
        """Add a teacher, before `start`. The order of registration is the order of merging.

        Args:
            source: Where its stream is: a `FileSource`, `KafkaSource` or other `Source`.

        Returns:
            The teacher's number, from 0.

        Raises:
            ConfigurationError: The student is started, or the source is none or known already.
        """
        if not isinstance(source, Source):
            raise ConfigurationError(
                f"{source!r} is no source; use FileSource(path), KafkaSource(topic) or "
                "MemorySource(topic)"
            )
        if self._started:
            raise ConfigurationError(f"{source.name}: teachers are registered before start()")
        if any(source.is_same(known) for known in self._sources):
            raise ConfigurationError(f"{source.name} is registered already")
        self._sources.append(source)
        self._stream_stats.append(StreamStats())
        return len(self._sources) - 1

    def start(self) -> None:
        """Begin. Does not wait for teachers of topics: they may start later.

        Raises:
            ConfigurationError: The student has no teachers or was started already, or a file is
                missing.
        """
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
        """Key -> dtype and row shape of merged batches. Waits until every stream is there.

        Raises:
            MergeError, RunMismatch, LengthMismatch: The streams cannot be merged as asked.
            WaitTimeout: A teacher's stream did not appear in time.
        """
        return self._merging().description

    @property
    def passes(self) -> int:
        """How many passes the teachers write. Waits until every teacher's stream is there."""
        self._merging()
        return self._streams()[0].stream.passes

    def knowledge(
        self,
        batch_size: int | None = None,
        *,
        global_batch_size: int | None = None,
        drop_last: bool = False,
        whole_batches: bool = False,
        pass_index: int | None = None,
        own_memory: bool = False,
        weight_key: str | None = None,
        position_key: str | None = None,
        pad_empty: bool = False,
        shuffle: Shuffle | None = None,
    ) -> KnowledgeIterator:
        """Return an iterator over one pass, as dicts of key -> tensor `[batch_size, ...]`.

        Each call returns the pass after the last one that was read to its end; after the last pass,
        it starts again with the first. A pass that was left early is repeated from its beginning,
        unless `load_state_dict` came between. With several ranks (`shard`), each gets its own rows
        of every batch; all get the same number of batches, and the last may be short or empty.

        Batches share no values. Those that came together lie in one piece of memory of about 4 MB,
        free when none of them is held: clone what is kept for long, or ask for `own_memory`.

        The iterator ends only at the end of the pass. After WaitTimeout its next batch can be asked
        for again. Its `close()` ends it early.

        Args:
            batch_size: Rows in a batch of one rank. The last batch of a pass may have fewer.
            global_batch_size: Rows in a batch of all ranks together, instead of `batch_size`.
            drop_last: Leave out a last batch that is shorter, on all ranks.
            whole_batches: Of several ranks: no batch of the pass is shorter, which the end must
                confirm. A rank then gives a batch without waiting for the rows of its next one.
            pass_index: The pass to give, from 0. If not given, the next one.
            own_memory: Give each batch memory of its own.
            weight_key: Add weights under this key, float32 `[rows]`: the number of ranks divided by
                the rows that all ranks have. The gradient of `(weights * losses).sum()`, averaged
                over the ranks as DDP does it, is that of the mean over the whole batch.
            position_key: Add where the batch ends, int64 `[4]`, for `save(path, at=...)`.
            pad_empty: Give one row of zeros, with weight 0, in place of a batch without rows.
            shuffle: Give the rows of files in a shuffled order: `Shuffle(seed=...)`.

        Returns:
            An iterator of batches, with a method `close()`.

        Raises:
            ConfigurationError: An argument has the wrong type or value, the student is not started,
                another iterator is under way, or the ranks do not divide the batch.
            RunMismatch, TopicIdentityError: A loaded state is of other streams or settings.
            MergeError: Keys cannot be merged as asked, or a result does not fit its dtype.
            DataError: While iterating: data are wrong or missing, or a query was not answered.
            WaitTimeout: A stream, or while iterating a teacher's next record, did not come in time.
        """
        request = self._settings.request(
            batch_size, global_batch_size=global_batch_size, drop_last=drop_last, whole_batches=whole_batches,
            pass_index=pass_index, own_memory=own_memory, weight_key=weight_key, position_key=position_key,
            pad_empty=pad_empty, shuffle=shuffle,
        )  # fmt: skip
        self._check_started()
        self._check_none_running()
        if pass_index is None:
            self._keeper.check_no_worker()
        merge = self._merging()
        request.check_possible(merge.description, self._sources)
        self._keeper.leave_workers()
        state = self._next_state(request)
        options = self._settings.options(request, self._settings.deal(request, self._streams()))
        self._keeper.requested = request.kept()
        self._keeper.progress.go_to(state)
        # Forgotten last: other threads see one or the other.
        self._keeper.saved = None
        return KnowledgeIterator(partial(self._begin, merge, options, request, state))

    def knowledge_in_worker(
        self, *, loaded: bool, **options: Any
    ) -> tuple[KnowledgeIterator, Progress, WorkerEpochs]:
        """For KnowledgeDataset: `knowledge` in a DataLoader worker, behind the epoch before it.

        Args:
            loaded: Whether a state was loaded in this worker, which counts then.
            **options: As for `knowledge`.

        Returns:
            The batches, where the student is, and the notes for the next epoch.
        """
        epochs = self._keeper.enter_worker(loaded=loaded)
        batches = self.knowledge(**options, own_memory=True)
        return batches, self._keeper.progress, epochs

    def _begin(
        self, merge: Merge, options: PassOptions, request: BatchRequest, state: ResumeState
    ) -> Delivery:
        """Start reading a pass."""
        self._check_none_running()
        sizes = [found.stream.rows_per_record for found in self._streams()]
        self._keeper.progress.go_to(state, sizes if options.deal or request.shuffle else [])
        self._chain = chain = begin_chain(
            request, options, state, merge, sources=self._sources, opened=self._streams(),
            stats=self._stats, stream_stats=self._stream_stats,
        )  # fmt: skip
        if not self._stats.batches:
            say_amplification(options.deal, self._sources, self._stream_stats)
        self._delivery = Delivery(
            chain,
            extras=request.extras,
            progress=self._keeper.progress,
            stats=self._stats,
            doing=self._doing,
            timeout_s=self._settings.timeout_s,
            commits=Commits.if_wanted(self._sources, self._keeper.progress),
            ended=partial(self._end, chain),
        )
        return self._delivery

    def _end(self, chain: PassChain) -> None:
        self._doing.now("between passes")
        self._dropped = chain.dropped
        if self._chain is chain:
            self._chain = self._delivery = None

    def _next_state(self, request: BatchRequest) -> ResumeState:
        """The state from which the next pass begins."""
        saved, pass_index = self._keeper.saved, request.pass_index
        state, passes = self._state_now(saved), self._streams()[0].stream.passes
        if saved is not None:
            state = state.behind_end(passes, pass_index, self.pass_rows)
            state.check_fits(request.batch_size, request.drop_last, pass_index, request.order)
        elif state.batches:
            # A pass that was left early begins again.
            state = state.restarted()
        return replace(state.for_pass(passes, pass_index), **request.kept())

    def _merging(self) -> Merge:
        self._check_started()
        if self._pid != os.getpid():
            # In a forked worker: the threads stayed in the parent, and sources open new clients.
            self._pid, self._opened, self._chain, self._delivery = os.getpid(), None, None, None
        if self._opened is None or self._merge is None:
            self._opened, self._merge = open_streams(
                self._sources, self._settings, self._doing, self._keeper.saved
            )
        return self._merge

    def _check_none_running(self) -> None:
        if self._delivery is None or self._pid != os.getpid():
            return
        if not self._delivery.timed_out:
            raise ConfigurationError(
                "another iterator of this student is under way; close it, or leave its loop, first"
            )
        # Its loop ended with WaitTimeout; what is left of it may be kept by the exception alone.
        self._delivery.close()

    def _streams(self) -> list[StreamInfo]:
        assert self._opened is not None, "streams are opened before they are used"
        return self._opened

    def close(self) -> None:
        """End all threads and release the sources. May be called twice; `start` begins anew."""
        if self._chain is not None and self._pid == os.getpid():
            self._chain.close()
            self._chain = self._delivery = None
        for source in self._sources:
            source.close()
        self._opened, self._merge, self._started = None, None, False
