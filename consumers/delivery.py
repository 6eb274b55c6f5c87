"""One pass on its way to the training loop: waits for merged batches and gives them one by one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from tutelage.consumers.batch_extras import Extras
from tutelage.consumers.commits import Commits
from tutelage.consumers.pass_chain import PassChain
from tutelage.consumers.progress import Progress
from tutelage.consumers.stages.align import AlignedEnd
from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.bounded_queue import Closed
from tutelage.consumers.stages.merge_stage import Merged
from tutelage.consumers.stats import StudentStats
from tutelage.schemas.errors import ConfigurationError, WaitTimeout
from tutelage.transport.status import Status
from tutelage.transport.waiting import Wait

log = logging.getLogger(__name__)


class Delivery:
    """Gives the batches of a pass to the training loop.

    Args:
        chain: The pass's stages.
        extras: What each batch gets besides the teachers' keys.
        progress: Where the loop is; moved with each batch.
        stats: Where the loop's time is counted.
        doing: Where to say what is done.
        timeout_s: How long to wait for a teacher's next record, in seconds.
        commits: Tells the sources' groups, if there are any.
        ended: Called once when the pass has ended.
    """

    def __init__(
        self,
        chain: PassChain,
        *,
        extras: Extras,
        progress: Progress,
        stats: StudentStats,
        doing: Status,
        timeout_s: float,
        commits: Commits | None,
        ended: Callable[[], None],
    ) -> None:
        self._chain = chain
        self._extras = extras
        #: Whether a wait for the next batch ran out and nobody has asked again.
        self.timed_out = False
        #: Called in the loop's thread, now and then, while it waits for a batch.
        self.while_waiting: Callable[[], None] | None = None
        self._progress = progress
        self._stats = stats
        self._doing = doing
        self._timeout_s = timeout_s
        self._commits = commits
        self._ended: Callable[[], None] | None = ended
        self._pid = os.getpid()

    def batches(self) -> Iterator[Batch]:
        """The batches that are still to come. Begun anew after an exception, it goes on."""
        progress, stats, commits = self._progress, self._stats, self._commits
        extras, adds = self._extras, self._extras.wanted
        start, given, rows, *_ = progress.at
        while isinstance(merged := self._awaited(), Merged):
            batches, resume = merged.batches, merged.resume
            size, left, rows_given = batches.batch_size, len(batches), 0
            # Of this rank and of all ranks: the rows of a whole batch, and of the last one.
            whole = size * extras.ranks
            last = batches.rows - (left - 1) * size
            global_last = merged.global_rows - (left - 1) * whole
            # Kept here, the memory of batches would not be freed while the next ones are awaited.
            del merged
            began = time.monotonic()
            for batch in batches:
                left -= 1
                given += 1
                if left:
                    rows_given += size
                    rows += whole
                else:
                    rows_given += last
                    rows += global_last
                # One assignment, which other threads see whole. Small batches come at 100,000 a
                # second.
                progress.at = (start, given, rows, resume, rows_given, left)
                if adds:
                    batch = extras.add(
                        batch,
                        rows=size if left else last,
                        global_rows=whole if left else global_last,
                        position=(progress.pass_index, given, rows, whole),
                    )
                if commits is not None:
                    commits(more=left > 0)
                yield batch
            del batch, batches
            stats.training_s += time.monotonic() - began
        progress.go_to(progress.state.next_pass(merged.positions))
        if commits is not None:
            commits()

    def _awaited(self) -> Merged | AlignedEnd:
        if self._pid != os.getpid():
            raise ConfigurationError(
                "this iterator was made in the process that this one was forked from, and its "
                "threads stayed there; make one here"
            )
        began, doing = time.monotonic(), self._doing
        self.timed_out = False
        doing.now("awaiting the next batch", beats=True)
        try:
            while True:
                doing.beat()
                try:
                    merged = self._chain.poll()
                except Closed as error:
                    raise ConfigurationError(
                        "the student was closed while it was iterated over"
                    ) from error
                if merged is not None:
                    return merged
                if self._commits is not None:
                    # What a broker did not take before: a teacher may wait for this student, as
                    # this student waits for the teacher.
                    self._commits()
                if self.while_waiting is not None:
                    self.while_waiting()
                what = self._chain.waiting_for
                if doing.wait is None or doing.wait.what != what:
                    hint = "its teacher may have stopped; started again, it goes on"
                    doing.wait = Wait(what, timeout_s=self._timeout_s, log=log, hint=hint)
                doing.wait.tick()
        except WaitTimeout:
            self.timed_out = True
            raise
        finally:
            doing.wait = None
            doing.now("training on a batch")
            waited_s = doing.since_s - began
            self._stats.starved_s += waited_s
            self._stats.longest_wait_s = max(self._stats.longest_wait_s, waited_s)

    def close(self) -> None:
        """End the chain's threads. May be called twice.

        Does nothing in a forked process, which has none of them.
        """
        ended, self._ended = self._ended, None
        if ended is not None and self._pid == os.getpid():
            self._chain.close()
            ended()


class KnowledgeIterator(Iterator[Batch]):
    """An iterator over the batches of one pass, as `Student.knowledge` returns it.

    The pass begins when the first batch is requested.

    Guarantee: only the end of the pass, or `close`, ends the iteration. After WaitTimeout the next
    call continues to wait. After any other error the next call raises the same error again.
    `close`, or dropping the last reference, ends the threads.

    Args:
        begin: Starts the pass when its first batch is requested; `Student.knowledge` provides it.

    Raises:
        MergeError, DataError, WaitTimeout: While iterating, as for `Student.knowledge`.
    """

    __slots__ = ("_begin", "_closed", "_delivery", "_error", "_next_batch", "_while_waiting")

    def __init__(self, begin: Callable[[], Delivery]) -> None:
        self._begin = begin
        self._delivery: Delivery | None = None
        self._next_batch: Callable[[], Batch] | None = None
        self._error: BaseException | None = None
        self._closed = False
        self._while_waiting: Callable[[], None] | None = None

    def while_waiting(self, call: Callable[[], None]) -> None:
        """Call a function now and then while a batch is awaited; what it raises ends the iteration.

        Args:
            call: Called in the thread that iterates. It must return at once.
        """
        self._while_waiting = call
        if self._delivery is not None:
            self._delivery.while_waiting = call

    def __next__(self) -> Batch:
        if self._next_batch is None:
            self._next_batch = self._start()
        try:
            return self._next_batch()
        except StopIteration:
            self.close()
            raise
        except WaitTimeout:
            # The exception ended the generator, but not the pass: the next call starts another.
            self._next_batch = None
            raise
        except BaseException as error:
            self._error = error
            self._release()
            raise

    def _start(self) -> Callable[[], Batch]:
        if self._error is not None:
            if isinstance(self._error, Exception):
                raise self._error
            raise ConfigurationError(
                "this iteration was interrupted; start another with knowledge()"
            ) from self._error
        if self._closed:
            raise StopIteration
        if self._delivery is None:
            self._delivery = self._begin()
            self._delivery.while_waiting = self._while_waiting
        # Nothing that is kept here may refer back to this object, so that dropping its last
        # reference ends its threads at once.
        return self._delivery.batches().__next__

    def _release(self) -> None:
        self._next_batch = None
        if self._delivery is not None:
            self._delivery.close()

    def close(self) -> None:
        """End the iteration and its threads. May be called twice."""
        self._closed = True
        self._release()

    def __del__(self) -> None:
        self._release()
