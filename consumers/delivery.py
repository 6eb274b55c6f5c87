"""One pass on its way to the training loop: waits for merged batches, gives them one by one, and counts."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from tutelage.consumers.commits import Commits
from tutelage.consumers.progress import Merged, Progress
from tutelage.consumers.stages.batches import Batch
from tutelage.consumers.stages.channel import Closed
from tutelage.consumers.stages.pipeline import Pipeline
from tutelage.consumers.tally import StudentTally
from tutelage.schemas.errors import ConfigurationError, WaitTimeout
from tutelage.transport.waiting import Status, Wait

log = logging.getLogger(__name__)

_POLL_S = 0.25


class UnderWay:
    """A pass that is read: its pipeline, and what is kept while batches are waited for and given."""

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        progress: Progress,
        tally: StudentTally,
        doing: Status,
        timeout_s: float,
        commits: Commits | None,
        ended: Callable[[], None],
    ) -> None:
        self.pipeline = pipeline
        #: Whether a wait for the next batch ran out and nobody has asked again.
        self.timed_out = False
        self._progress = progress
        self._tally = tally
        self._doing = doing
        self._timeout_s = timeout_s
        self._commits = commits
        self._ended: Callable[[], None] | None = ended
        self._pid = os.getpid()

    def batches(self) -> Iterator[Batch]:
        """The batches that are still to come. Begun anew after an exception, it goes on where it was."""
        progress, tally, commits = self._progress, self._tally, self._commits
        start, given, rows, _, _ = progress.at
        while (batches := (merged := self._awaited()).batches) is not None:
            trails, size, last = merged.trails, batches.batch_size, len(batches) - 1
            # Kept here, the memory of batches would not be freed while the next ones are awaited.
            del merged
            began = time.monotonic()
            for index, batch in enumerate(batches):
                given += 1
                rows += size if index < last else trails.rows - index * size
                # One assignment, which other threads see whole. Small batches come by the hundred thousand a second.
                progress.at = (start, given, rows, trails, index)
                if commits is not None:
                    commits(more=index < last)
                yield batch
            del batch, batches
            tally.training_s += time.monotonic() - began
        progress.go_to(progress.place.following(merged.positions))
        if commits is not None:
            commits()

    def _awaited(self) -> Merged:
        if self._pid != os.getpid():
            raise ConfigurationError(
                "this iterator was made in the process that this one was forked from, and its threads stayed there; make one here"
            )
        began, doing, pipeline = time.monotonic(), self._doing, self.pipeline
        self.timed_out = False
        doing.now("awaiting the next batch", beats=True)
        try:
            while True:
                doing.beat()
                try:
                    merged = pipeline.get(_POLL_S)
                except Closed as error:
                    raise ConfigurationError(
                        "the student was closed while it was iterated over"
                    ) from error
                if merged is not None:
                    return merged
                if self._commits is not None:
                    # What a broker did not take: a teacher may be waiting for it, as this student is for the teacher.
                    self._commits()
                what = pipeline.waiting_for
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
            self._tally.starved_s += waited_s
            self._tally.longest_wait_s = max(self._tally.longest_wait_s, waited_s)

    def close(self) -> None:
        """End the pipeline's threads. May be called twice; does nothing in a process that was forked, which has none of them."""
        ended, self._ended = self._ended, None
        if ended is not None and self._pid == os.getpid():
            self.pipeline.close()
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

    __slots__ = ("_begin", "_closed", "_error", "_give", "_under_way")

    def __init__(self, begin: Callable[[], UnderWay]) -> None:
        self._begin = begin
        self._under_way: UnderWay | None = None
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
        if self._under_way is None:
            self._under_way = self._begin()
        # Nothing that is kept here may refer back to this object: letting go of it must end its threads at once.
        return self._under_way.batches().__next__

    def _release(self) -> None:
        self._give = None
        if self._under_way is not None:
            self._under_way.close()

    def close(self) -> None:
        """End the iteration and its threads, as leaving its loop does. May be called twice."""
        self._closed = True
        self._release()

    def __del__(self) -> None:
        self._release()
