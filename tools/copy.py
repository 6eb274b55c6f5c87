"""A source's records -> a sink, in order, byte for byte. An interrupted copy is continued."""

from __future__ import annotations

import os
from collections.abc import Callable

from tutelage.consumers.sources.base import Source
from tutelage.consumers.sources.file import FileSource
from tutelage.producers.sinks.base import Sink
from tutelage.producers.sinks.file import FileSink
from tutelage.schemas.codec import Encoded
from tutelage.schemas.container_format import CodecName
from tutelage.schemas.errors import SinkExists
from tutelage.tools.in_order import Counts, in_order

Report = Callable[[Counts], None]


def record(
    source: Source,
    file: str | os.PathLike[str],
    *,
    codec: CodecName = "null",
    overwrite: bool = False,
    timeout_s: float = 600.0,
    progress: Report = lambda counts: None,
) -> Counts:
    """Record a run to a file, record by record as they are, until its last pass ends.

    Args:
        source: Where the run is; closed at the end.
        file: The file to write. What an interrupted call left is continued.
        codec: The file's.
        overwrite: Replace the file, finished or not.
        timeout_s: Seconds to wait for the teacher's next record.
        progress: Called with the counts so far, once a record.

    Returns:
        What was copied by this call.

    Raises:
        SinkExists: The file holds another run, or all of this one.
        WaitTimeout: The next record did not come.
        DataError: Records are wrong or missing; the message says where.
    """
    return _copied(source, FileSink(file, codec=codec, overwrite=overwrite), timeout_s, progress)


def replay(
    file: str | os.PathLike[str],
    sink: Sink,
    *,
    timeout_s: float = 60.0,
    progress: Report = lambda counts: None,
) -> Counts:
    """Replay a file's run to a sink, record by record as they are.

    Args:
        file: The file.
        sink: Where the records go, such as `KafkaSink(topic, partitions=...)`; closed at the end.
            What an interrupted call left is continued.
        timeout_s: Seconds to wait for the next record of a file that is still written.
        progress: Called with the counts so far, once a record.

    Returns:
        What was copied by this call.

    Raises:
        SinkExists: The sink holds another run, or all of this one.
        DataError: Records are wrong or missing; the message says where.
        TransportError: A record could not be delivered.
    """
    return _copied(FileSource(file), sink, timeout_s, progress)


def _copied(source: Source, sink: Sink, timeout_s: float, progress: Report) -> Counts:
    try:
        return copy_stream(source, sink, timeout_s=timeout_s, progress=progress)
    finally:
        source.close()
        sink.close()


def copy_stream(
    source: Source, sink: Sink, *, timeout_s: float, progress: Report = lambda counts: None
) -> Counts:
    """Copy a whole run. The caller closes source and sink.

    Args:
        source: The source.
        sink: The sink.
        timeout_s: How long to wait for the next record, in seconds.
        progress: Called with the counts so far, once a record.

    Returns:
        What was copied by this call.

    Raises:
        SinkExists: The sink holds another run, or all of this one.
    """
    opened = source.open(timeout_s)
    tail = sink.tail()
    start = (0, 0)
    if tail is not None:
        if tail.stream.run_id != opened.stream.run_id or tail.finished:
            what = (
                "all of this run"
                if tail.stream.run_id == opened.stream.run_id
                else f"another run, {tail.stream}"
            )
            raise SinkExists(
                f"{sink.name} holds {what}; write elsewhere, or overwrite a file with --overwrite"
            )
        start = (tail.pass_index, tail.sequence)
    sink.open(opened.stream, opened.description)
    copied = Counts()
    for record in in_order(source, opened, timeout_s=timeout_s, start=start, counted=copied):
        sink.write(
            record.head,
            sink.pack(Encoded(head=record.head, buffers=[record.raw], nbytes=record.nbytes)),
        )
        copied.add(record)
        progress(copied)
    sink.finish()
    return copied
