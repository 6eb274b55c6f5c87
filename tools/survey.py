"""A look into a source: how much it holds, by heads and tails alone, and a sample of its records from one end to the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.consumers.sources.file import FileSource
from tutelage.consumers.sources.kafka import KafkaSource
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Record
from tutelage.tools.in_order import in_order

if TYPE_CHECKING:
    from tutelage.schemas.tail import Tail
    from tutelage.transport.tail import TopicTail

#: Bytes of records that a look reads unless all are asked for.
SAMPLE_BYTES = 64 << 20


# Of older runs each costs a look at every partition.
_MOST_RUNS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One run of a topic: who wrote it, when it began (seconds since the epoch), its passes, and how much of them is there.

    `rows` are those of the last pass that is there, as far as its records say; `whole` is whether all passes are there to their ends.
    """

    run_id: str
    teacher: str
    created: float
    passes: int
    passes_ended: int
    rows: int
    whole: bool


@dataclass(kw_only=True, slots=True)
class Survey:
    """What a source holds. Counts are None where only reading all of it would tell; `flaw` says where it is not whole.

    `seconds` is the time from the run's beginning to its last record, as far as it is known.
    """

    opened: StreamInfo
    records: int | None = None
    rows: int | None = None
    nbytes: int | None = None
    passes_ended: int | None = None
    seconds: float | None = None
    flaw: str | None = None
    #: Of a topic the pass and sequence of the first record that is not there.
    missing: tuple[int, int] | None = None
    partitions: list[tuple[int, int]] = field(default_factory=list)
    #: The runs of a topic, the newest first.
    runs: list[RunSummary] = field(default_factory=list)


def survey_source(source: Source, timeout_s: float) -> Survey:
    """Look at a source's extent: a file's heads are walked, a topic's ends are asked for and its tails read."""
    survey = Survey(opened=source.open(timeout_s))
    if isinstance(source, FileSource):
        _of_file(survey, source)
    elif isinstance(source, KafkaSource):
        _of_topic(survey, source)
    return survey


def sample_records(
    source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float
) -> Iterator[Record]:
    """Records, ends left out: all of them, or of a file about so many bytes spread evenly over it, of a topic as many from its beginning."""
    if isinstance(source, FileSource):
        yield from _of_blocks(source, sample_bytes)
        return
    try:
        yield from _in_order(source, survey, sample_bytes, timeout_s)
    except TutelageError as error:
        # Its beginning may have been deleted: all else is shown.
        survey.flaw = survey.flaw or str(error)


def _in_order(
    source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float
) -> Iterator[Record]:
    """A topic's records, as far as they are there now."""
    seen, missing = 0, survey.missing
    if missing == (0, 0):
        return
    for record in in_order(source, survey.opened, timeout_s=timeout_s):
        head = record.head
        if head.end is None:
            yield record
            seen += record.nbytes
        behind = (
            (head.pass_index + 1, 0)
            if head.end is not None
            else (head.pass_index, head.sequence + 1)
        )
        if behind == missing or (sample_bytes is not None and seen >= sample_bytes):
            return


def _of_file(survey: Survey, source: FileSource) -> None:
    records = rows = passes = unread = 0
    with ContainerReader(source.path, name=source.name) as reader:
        small = reader.nbytes <= SAMPLE_BYTES
        last = None
        try:
            for block in reader.stored_blocks():
                head = block.head()
                if head is None and not small:
                    # Compressed: what is in it only unpacking tells, and of much the last is enough.
                    unread, last = unread + 1, block
                    continue
                for found in (
                    [head] if head is not None else (record.head for record in block.each())
                ):
                    passes += found.end is not None
                    records += found.end is None
                    rows += found.rows
            if last is not None:
                for end in (record.head for record in last.each()):
                    passes = end.pass_index + (end.end is not None)
                records += unread - passes
        except TutelageError as error:
            survey.flaw = str(error)
        survey.nbytes = reader.nbytes
        survey.records, survey.rows, survey.passes_ended = records, None if unread else rows, passes
        if survey.flaw is None and passes < reader.stream.passes:
            survey.flaw = f"{source.name} ends after {passes} of {reader.stream.passes} passes: its teacher has not finished"
        # The writer's clock, which may say anything, and this file system's.
        with contextlib.suppress(OSError, OverflowError):
            survey.seconds = max(0.0, os.stat(source.path).st_mtime - reader.stream.created) or None


def _of_topic(survey: Survey, source: KafkaSource) -> None:
    from tutelage.transport.topic_admin import KafkaTopic

    stream = survey.opened.stream
    asked = KafkaTopic(source.connection, source.label)
    partitions = asked.partitions()
    lows, ends = asked.first_offsets(partitions), asked.end_offsets(partitions)
    found: TopicTail | None = None
    for each in _tails(source, partitions, ends):
        survey.runs.append(_summary(each.tail))
        if each.tail.stream.run_id == stream.run_id:
            found = each
    if found is not None:
        tail = found.tail
        survey.partitions = list(
            zip(map(max, zip(lows, found.begins, strict=False)), found.ends, strict=False)
        )
        survey.passes_ended = tail.pass_index
        survey.missing = (tail.pass_index, tail.sequence)
        if stream.passes == 1:
            # Of earlier passes the lengths are not known without reading their ends.
            end = tail.last.end if tail.last is not None else None
            survey.records = end.records if end is not None else tail.sequence
            survey.rows = end.rows if end is not None else tail.sequence * stream.rows_per_record
        if not tail.complete:
            survey.flaw = f"{source.name} holds {stream} up to record {tail.sequence} of pass {tail.pass_index}: its teacher has not finished"
        with contextlib.suppress(OverflowError):
            survey.seconds = (
                tail.newest_s - stream.created if tail.newest_s > stream.created else None
            )


def _tails(source: KafkaSource, partitions: int, ends: list[int]) -> Iterator[TopicTail]:
    """The tail of each run in a topic, the newest first."""
    from tutelage.transport.runs import TopicRuns
    from tutelage.transport.tail import read_tail

    runs = TopicRuns(source.connection, source.label)
    for found in islice(runs.all(), _MOST_RUNS):
        tail = read_tail(source.connection, source.label, partitions, run=found, ends=ends)
        if tail is not None:
            yield tail
            # The next older run lies before this one's first records.
            ends = [min(pair) for pair in zip(tail.begins, ends, strict=False)] + ends[
                len(tail.begins) :
            ]


def _summary(tail: Tail) -> RunSummary:
    stream, last = tail.stream, tail.last
    end = last.end if last is not None else None
    rows = (
        end.rows
        if end is not None
        else 0
        if last is None
        else last.sequence * stream.rows_per_record + last.rows
    )
    return RunSummary(
        run_id=stream.run_id,
        teacher=stream.teacher,
        created=stream.created,
        passes=stream.passes,
        passes_ended=tail.pass_index,
        rows=rows,
        whole=tail.complete,
    )


def _of_blocks(source: FileSource, sample_bytes: int | None) -> Iterator[Record]:
    with ContainerReader(source.path, name=source.name) as reader:
        share = 1.0 if sample_bytes is None else min(1.0, sample_bytes / max(1, reader.nbytes))
        due = 1.0
        try:
            for block in reader.stored_blocks():
                # Evenly, the first one always.
                if due >= 1.0:
                    due -= 1.0
                    yield from (record for record in block.each() if record.head.end is None)
                due += share
        except TutelageError:
            # Said by the survey; what is whole is shown.
            return
