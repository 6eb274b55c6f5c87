"""A look into a source: how much it holds, by heads and tails alone, and a sample of its records from one end to the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from tutelage.cli.copying import in_order
from tutelage.consumers.file_source import FileSource
from tutelage.consumers.kafka_source import KafkaSource
from tutelage.consumers.source import Opened, Source
from tutelage.schemas.container_reader import ContainerReader
from tutelage.schemas.errors import TutelageError
from tutelage.schemas.record import Record

#: Bytes of records that a look reads unless all are asked for.
SAMPLE_BYTES = 64 << 20


@dataclass(kw_only=True, slots=True)
class Survey:
    """What a source holds. Counts are None where only reading all of it would tell; `flaw` says where it is not whole.

    `seconds` is the time from the run's beginning to its last record, as far as it is known.
    """

    opened: Opened
    records: int | None = None
    rows: int | None = None
    nbytes: int | None = None
    passes_ended: int | None = None
    seconds: float | None = None
    flaw: str | None = None
    #: Of a topic the pass and sequence of the first record that is not there.
    missing: tuple[int, int] | None = None
    partitions: list[tuple[int, int]] = field(default_factory=list)


def survey_of(source: Source, timeout_s: float) -> Survey:
    """Look at a source's extent: a file's heads are walked, a topic's ends are asked for and its tails read."""
    survey = Survey(opened=source.open(timeout_s))
    if isinstance(source, FileSource):
        _of_file(survey, source)
    elif isinstance(source, KafkaSource):
        _of_topic(survey, source)
    return survey


def sampled(source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float) -> Iterator[Record]:
    """Records, ends left out: all of them, or of a file about so many bytes spread evenly over it, of a topic as many from its beginning."""
    if isinstance(source, FileSource):
        yield from _of_blocks(source, sample_bytes)
        return
    try:
        yield from _in_order(source, survey, sample_bytes, timeout_s)
    except TutelageError as error:
        # Its beginning may have been deleted: all else is shown.
        survey.flaw = survey.flaw or str(error)


def _in_order(source: Source, survey: Survey, sample_bytes: int | None, timeout_s: float) -> Iterator[Record]:
    """A topic's records, as far as they are there now."""
    seen, missing = 0, survey.missing
    if missing == (0, 0):
        return
    for record in in_order(source, survey.opened, timeout_s=timeout_s):
        head = record.head
        if head.end is None:
            yield record
            seen += record.nbytes
        behind = (head.pass_index + 1, 0) if head.end is not None else (head.pass_index, head.sequence + 1)
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
                for found in [head] if head is not None else [record.head for record in block.records()]:
                    passes += found.end is not None
                    records += found.end is None
                    rows += found.rows
            if last is not None:
                (end,) = (record.head for record in last.records()[-1:])
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
    from tutelage.producers.kafka_tail import read_tail
    from tutelage.schemas.kafka_topic import KafkaTopic

    stream = survey.opened.stream
    asked = KafkaTopic(source.connection, source.label)
    lows, ends = asked.first_offsets(stream.partitions), asked.end_offsets(stream.partitions)
    survey.partitions = list(zip(lows, ends, strict=True))
    found = read_tail(source.connection, source.label, asked.partitions())
    if found is not None:
        tail = found[0]
        survey.passes_ended = tail.pass_index
        survey.missing = (tail.pass_index, tail.sequence)
        if stream.passes == 1:
            # Of earlier passes the lengths are not known without reading their ends.
            end = tail.last.end if tail.last is not None else None
            survey.records = end.records if end is not None else tail.sequence
            survey.rows = end.rows if end is not None else tail.sequence * stream.rows_per_record
        if not tail.complete:
            survey.flaw = f"{source.name} holds {stream} up to record {tail.sequence} of pass {tail.pass_index}: its teacher has not finished"
    last = asked.last_timestamp(stream.partitions)
    with contextlib.suppress(OverflowError):
        survey.seconds = last - stream.created if last is not None and last > stream.created else None


def _of_blocks(source: FileSource, sample_bytes: int | None) -> Iterator[Record]:
    with ContainerReader(source.path, name=source.name) as reader:
        share = 1.0 if sample_bytes is None else min(1.0, sample_bytes / max(1, reader.nbytes))
        due = 1.0
        try:
            for block in reader.stored_blocks():
                # Evenly, the first one always.
                if due >= 1.0:
                    due -= 1.0
                    yield from (record for record in block.records() if record.head.end is None)
                due += share
        except TutelageError:
            # Said by the survey; what is whole is shown.
            return
