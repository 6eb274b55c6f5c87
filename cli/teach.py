"""`tutelage teach`: run a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    CreateFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    kafka_settings,
)
from tutelage.cli.monitoring import MetricsFlag, monitored

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tutelage import Teacher


def teach(
    teacher: Annotated[
        str,
        typer.Argument(
            metavar="MODULE:TEACHER",
            help="A Lesson, or a function that returns one; FILE.py:NAME works too.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE.avro", help="Write an Avro file.", show_default=False),
    ] = None,
    topic: Annotated[
        str | None,
        typer.Option(
            "--topic", "-t", metavar="TOPIC", help="Write a Kafka topic.", show_default=False
        ),
    ] = None,
    codec: Annotated[str, typer.Option(help="Of the file: null, deflate or zstandard.")] = "null",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file, finished or not.")
    ] = False,
    partitions: Annotated[
        int | None, typer.Option(help="Of a new topic; 4 unless given.", show_default=False)
    ] = None,
    rows_per_record: Annotated[
        int | None, typer.Option(help="Chosen for about 4 MB unless given.", show_default=False)
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(help="Over the inputs; the lesson's unless given.", show_default=False),
    ] = None,
    wire: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE", help="Send floats as float16, bfloat16 or float32.", show_default=False
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Such as cuda:0 or cpu; may be repeated.", show_default=False),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What the student calls it.", show_default=False)
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            help="Name the run: started again after its end, it is then simply done.",
            show_default=False,
        ),
    ] = None,
    new_run: Annotated[
        bool,
        typer.Option(
            "--new-run",
            help="Begin a new run behind the one that the topic holds, as a daily capture does. With --run-id the same command goes on with "
            "its run when it is repeated.",
        ),
    ] = False,
    create: CreateFlag = True,
    delivery_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds that the brokers may be away, at the start and later, before the teacher stops."
        ),
    ] = 120.0,
    transactional: Annotated[
        bool,
        typer.Option(
            "--transactional",
            help="Write in Kafka transactions, for foreign readers of committed data.",
        ),
    ] = False,
    metrics_port: MetricsFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Run a teacher and write what it knows to a file or a topic. Interrupted, the same command goes on where it stopped.

    [bold]Examples[/bold]

      tutelage teach my_teacher.py:lesson --out teacher1.avro

      tutelage teach my_package.teachers:resnet --topic teacher1 -b localhost:9092 --wire float16

      tutelage teach tutelage.examples.toy.lessons:teacher1 --topic toy1 --device cpu --device cpu
    """
    from tutelage import FileSink, KafkaSink, Sink, Teacher
    from tutelage.cli.printing import say, typed_text
    from tutelage.cli.progress import Progress, said
    from tutelage.cli.targets import lesson_of
    from tutelage.schemas.arguments import check_seconds, check_text, check_whole_number
    from tutelage.schemas.container_format import check_codec
    from tutelage.schemas.errors import ConfigurationError

    if (out is None) == (topic is None):
        raise ConfigurationError(
            "say where to write: --out FILE.avro or --topic TOPIC, one of them"
        )
    if topic is not None and (overwrite or codec != "null"):
        raise ConfigurationError(
            "--codec and --overwrite are about a file; with --topic there is none"
        )
    if out is not None and new_run:
        raise ConfigurationError(
            "--new-run is about a topic, which may hold several runs; a file holds one"
        )
    if out is not None and not create:
        raise ConfigurationError("--no-create is about a topic; with --out FILE.avro there is none")
    for flag, number in (
        ("--partitions", partitions),
        ("--rows-per-record", rows_per_record),
        ("--passes", passes),
    ):
        if number is not None:
            check_whole_number(flag, number)
    for flag, given in (
        ("--name", name),
        ("--run-id", run_id),
        ("--wire", wire),
        *(("--device", one) for one in device or ()),
    ):
        if given is not None:
            check_text(flag, typed_text(flag, given))
    _refuse_no_devices(device or ())
    sink: Sink
    # Before the lesson is looked up: what its module does with the working directory must not move the file.
    if out is not None:
        sink = FileSink(out, codec=check_codec(codec), overwrite=overwrite)
    else:
        kafka = kafka_settings(bootstrap_server, registry, command_config, x)
        sink = KafkaSink(
            str(topic),
            partitions=partitions,
            create=create,
            transactional=transactional,
            delivery_timeout_s=check_seconds("--delivery-timeout", delivery_timeout),
            **kafka.arguments(),
        )
    lesson = lesson_of(teacher)
    running = Teacher(
        sink,
        name=typed_text("--name", name) if name is not None else lesson.name,
        revision=lesson.revision,
        inputs_fingerprint=lesson.inputs_fingerprint,
        passes=passes if passes is not None else lesson.passes,
        rows_per_record=rows_per_record if rows_per_record is not None else lesson.rows_per_record,
        wire=wire if wire is not None else lesson.wire,
        ragged_keys=lesson.ragged_keys,
        run_id=typed_text("--run-id", run_id) if run_id is not None else None,
        new_run=new_run,
    )
    watched = monitored(metrics_port, lambda: _metrics(running), lambda: running.activity)
    with watched, running, Progress(f"teaching to {sink.name}") as progress:
        if running.run.complete:
            say(f"{sink.name}: holds this run already, and all of it", error=True)
        elif running.run.generation:
            begun = f"pass {running.run.pass_index}, {running.run.skip_rows:,} rows of which are written already"
            say(f"{sink.name}: going on with a run that was begun, in {begun}", error=True)
        running.serve(
            lesson.model,
            lesson.inputs,
            batch_size=lesson.batch_size,
            devices=device or lesson.devices,
            progress=lambda run: progress.show(
                run.rows_written, run.records_written, "records", run.bytes_written
            ),
        )
        run = running.run
        total = said(
            run.rows_written, run.records_written, "records", run.bytes_written, progress.seconds
        )
    say(f"{sink.name}: {total}", error=True)


def _refuse_no_devices(names: Sequence[str]) -> None:
    import torch

    from tutelage.schemas.errors import ConfigurationError

    for name in names:
        try:
            torch.device(name)
        except RuntimeError as error:
            raise ConfigurationError(
                f"--device {name!r} is no device of torch; name one such as cpu or cuda:0"
            ) from error


def _metrics(teacher: Teacher) -> Collector:
    from tutelage.producers.metrics import TeacherMetrics

    return TeacherMetrics(teacher)
