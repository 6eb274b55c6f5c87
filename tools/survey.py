"""A source -> how much it holds, from heads and tails alone, and a sample of its records."""

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

#: Bytes of records to read, unless all are asked for.
SAMPLE_BYTES = 64 << 20
# Each run costs a read of every partition's tail.
_MAX_RUNS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """One run of a topic.

    Args:
        run_id: The run.
        teacher: The teacher that wrote it.
        created: When it started, in seconds since the epoch.
        passes: The passes it is to have.
        passes_ended: The passes that are complete.
        rows: The rows of its last pass so far.
        whole: Whether all passes are complete.
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
    """How much a source holds. A count is None if only reading everything could tell.

    Args:
        info: The run, and the description of its records.
        records: Records.
        rows: Rows.
        nbytes: The size of a file.
        passes_ended: The passes that are complete.
        seconds: Seconds from the start of the run to its last record.
        flaw: Where the source is incomplete or damaged.
        missing: Of a topic, the pass and sequence of the first missing record.
        partitions: Of a topic, the first offset and the end offset of each partition.
        runs: Of a topic, its runs, the newest first.
    """

    info: StreamInfo
    records: int | None = None
    rows: int | None = None
    nbytes: int | None = None
    passes_ended: int | None = None
    seconds: float | None = None
    flaw: str | None = None
    missing: tuple[int, int] | None = None
    partitions: list[tuple[int, int]] = field(default_factory=list)
    runs: list[RunSummary] = field(default_factory=list)


def survey_source(source: Source, timeout_s: float) -> Survey:
    """Find out how much a source holds.

    Reads the heads of a file's blocks, or a topic's offsets and tails.

    Args:
        source: The source; it stays open.
        timeout_s: Seconds to wait for a topic's first record.
    """
    survey = Survey(info=source.open(timeout_s))
    if isinstance(source, FileSource):
        _survey_file(survey, source)
    elif isinstance(source, KafkaSource):
        _survey_topic(survey, source)
    return survey


def sample_records(
    source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float
) -> Iterator[Record]:
    """Read a sample of a source's records, without end records.

    Args:
        source: The source.
        survey: Its survey. Gets a flaw, if a topic cannot be read.
        sample_bytes: About how many bytes of records to read: spread evenly over a file, or from
            the beginning of a topic. None reads all.
        timeout_s: Seconds to wait for a topic's next record.
    """
    if isinstance(source, FileSource):
        yield from _sample_file(source, sample_bytes)
        return
    try:
        yield from _sample_topic(source, survey, sample_bytes, timeout_s)
    except TutelageError as error:
        # The topic's beginning may have been deleted. Everything else can still be shown.
        survey.flaw = survey.flaw or str(error)


def _sample_topic(
    source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float
) -> Iterator[Record]:
    """The records that a topic holds now."""
    seen, missing = 0, survey.missing
    if missing == (0, 0):
        return
    for record in in_order(source, survey.info, timeout_s=timeout_s):
        head = record.head
        if head.end is None:
            yield record
            seen += record.nbytes
        following = (
            (head.pass_index + 1, 0)
            if head.end is not None
            else (head.pass_index, head.sequence + 1)
        )
        if following == missing or (sample_bytes is not None and seen >= sample_bytes):
            return


def _survey_file(survey: Survey, source: FileSource) -> None:
    records = rows = passes = unread = 0
    with ContainerReader(source.path, name=source.name) as reader:
        small = reader.nbytes <= SAMPLE_BYTES
        last = None
        try:
            for block in reader.stored_blocks():
                head = block.head()
                if head is None and not small:
                    # Compressed. Of a large file only the last block is decompressed.
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
            survey.flaw = (
                f"{source.name} ends after {passes} of {reader.stream.passes} passes: its teacher "
                "has not finished"
            )
        # The clocks of the writer and of this file system may differ by any amount.
        with contextlib.suppress(OSError, OverflowError):
            survey.seconds = max(0.0, os.stat(source.path).st_mtime - reader.stream.created) or None


def _survey_topic(survey: Survey, source: KafkaSource) -> None:
    from tutelage.transport.topic_admin import KafkaTopic

    stream = survey.info.stream
    admin = KafkaTopic(source.connection, source.label)
    partitions = admin.partitions()
    lows, ends = admin.first_offsets(partitions), admin.end_offsets(partitions)
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
            # With several passes, the lengths of earlier ones stand only in their end records.
            end = tail.last.end if tail.last is not None else None
            survey.records = end.records if end is not None else tail.sequence
            survey.rows = end.rows if end is not None else tail.sequence * stream.rows_per_record
        if not tail.complete:
            survey.flaw = (
                f"{source.name} holds {stream} up to record {tail.sequence} of pass "
                f"{tail.pass_index}: its teacher has not finished"
            )
        with contextlib.suppress(OverflowError):
            survey.seconds = (
                tail.newest_s - stream.created if tail.newest_s > stream.created else None
            )


def _tails(source: KafkaSource, partitions: int, ends: list[int]) -> Iterator[TopicTail]:
    """The tail of each run in a topic, the newest first."""
    from tutelage.transport.runs import TopicRuns
    from tutelage.transport.tail import read_tail

    runs = TopicRuns(source.connection, source.label)
    for found in islice(runs.all(), _MAX_RUNS):
        tail = read_tail(source.connection, source.label, partitions, run=found, ends=ends)
        if tail is not None:
            yield tail
            # The next older run ends before this one's first records.
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


def _sample_file(source: FileSource, sample_bytes: int | None) -> Iterator[Record]:
    with ContainerReader(source.path, name=source.name) as reader:
        share = 1.0 if sample_bytes is None else min(1.0, sample_bytes / max(1, reader.nbytes))
        due = 1.0
        try:
            for block in reader.stored_blocks():
                # Spread evenly; the first block is always in the sample.
                if due >= 1.0:
                    due -= 1.0
                    yield from (record for record in block.each() if record.head.end is None)
                due += share
        except TutelageError:
            # The survey has the error already. The sample ends here.
            return
