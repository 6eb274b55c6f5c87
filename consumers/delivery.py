"""One pass on its way to the training loop: waits for merged batches and gives them one by one."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from tutelage.consumers.chain import Chain
from tutelage.consumers.commits import Commits
from tutelage.consumers.progress import Progress
from tutelage.consumers.stages.align import AlignedEnd
from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.bounded_queue import Closed
from tutelage.consumers.stages.merge_stage import Merged
from tutelage.consumers.stats import StudentStats
from tutelage.schemas.errors import ConfigurationError, WaitTimeout
from tutelage.transport.waiting import Status, Wait

log = logging.getLogger(__name__)


class Delivery:
    """Gives the batches of a pass to the training loop.

    Args:
        chain: The pass's stages.
        progress: Where the loop is; moved with each batch.
        stats: Where the loop's time is counted.
        doing: Where to say what is done.
        timeout_s: How long to wait for a teacher's next record, in seconds.
        commits: Tells the sources' groups, if there are any.
        ended: Called once when the pass has ended.
    """

    def __init__(
        self,
        chain: Chain,
        *,
        progress: Progress,
        stats: StudentStats,
        doing: Status,
        timeout_s: float,
        commits: Commits | None,
        ended: Callable[[], None],
    ) -> None:
        self._chain = chain
        #: Whether a wait for the next batch ran out and nobody has asked again.
        self.timed_out = False
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
        start, given, rows, *_ = progress.at
        while isinstance(merged := self._awaited(), Merged):
            batches, resume = merged.batches, merged.resume
            size, left, rows_given = batches.batch_size, len(batches), 0
            # Kept here, the memory of batches would not be freed while the next ones are awaited.
            del merged
            began = time.monotonic()
            for batch in batches:
                left -= 1
                given += 1
                count = size if left else batches.rows - rows_given
                rows_given += count
                rows += count
                # One assignment, which other threads see whole. Small batches come at 100,000 a
                # second.
                progress.at = (start, given, rows, resume, rows_given, left)
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
    """The batches of one pass, which `Student.knowledge` returns.

    The pass begins with the first batch that is asked for.

    Guarantee: nothing but the end of the pass, or `close`, ends the iteration. After WaitTimeout
    the next call goes on waiting; after any other error it raises that error again. `close`, or
    letting go of it, ends the threads.

    Args:
        begin: Starts the pass when its first batch is asked for; `Student.knowledge` gives it.

    Raises:
        MergeError, DataError, WaitTimeout: While iterating, as `Student.knowledge` says.
    """

    __slots__ = ("_begin", "_closed", "_delivery", "_error", "_give")

    def __init__(self, begin: Callable[[], Delivery]) -> None:
        self._begin = begin
        self._delivery: Delivery | None = None
        self._give: Callable[[], Batch] | None = None
        self._error: BaseException | None = None
        self._closed = False

    def __next__(self) -> Batch:
        if self._give is None:
            self._give = self._giving()
        try:
            return self._give()
        except StopIteration:
            self.close()
            raise
        except WaitTimeout:
            # The generator is used up by the exception, the pass is not.
            self._give = None
            raise
        except BaseException as error:
            self._error = error
            self._release()
            raise

    def _giving(self) -> Callable[[], Batch]:
        if self._error is not None:
            if isinstance(self._error, Exception):
                raise self._error
            raise ConfigurationError(
                "this iteration was interrupted; begin another with knowledge()"
            ) from self._error
        if self._closed:
            raise StopIteration
        if self._delivery is None:
            self._delivery = self._begin()
        # Nothing that is kept here may refer back to this object: letting go of it must end its threads at once.
        return self._delivery.batches().__next__

    def _release(self) -> None:
        self._give = None
        if self._delivery is not None:
            self._delivery.close()

    def close(self) -> None:
        """End the iteration and its threads, as leaving its loop does. May be called twice."""
        self._closed = True
        self._release()

    def __del__(self) -> None:
        self._release()
