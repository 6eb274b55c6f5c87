"""`tutelage teach`: runs a teacher and writes its knowledge to a file or a topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    CreateFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    kafka_settings,
)
from tutelage.cli.monitoring import MetricsFlag, serve_metrics
from tutelage.cli.printing import say, typed_text
from tutelage.cli.teach_flags import (
    CodecFlag,
    DeliveryTimeoutFlag,
    DeviceFlag,
    GiveUpAfterFlag,
    MaxRowsFlag,
    MaxTokensFlag,
    NameFlag,
    NewRunFlag,
    OnlyFlag,
    OutFlag,
    OverwriteFlag,
    PartitionsFlag,
    PassesFlag,
    QueriesFlag,
    RowsPerRecordFlag,
    RunIdFlag,
    SessionTimeoutFlag,
    StayFlag,
    TeacherArgument,
    TopicFlag,
    TransactionalFlag,
    WireFlag,
    parse_only,
)

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tutelage import Lesson, Teacher


def teach(
    teacher: TeacherArgument,
    out: OutFlag = None,
    topic: TopicFlag = None,
    queries: QueriesFlag = None,
    max_rows: MaxRowsFlag = 64,
    max_tokens: MaxTokensFlag = None,
    session_timeout: SessionTimeoutFlag = 6.0,
    stay: StayFlag = False,
    only: OnlyFlag = None,
    give_up_after: GiveUpAfterFlag = 3,
    codec: CodecFlag = "null",
    overwrite: OverwriteFlag = False,
    partitions: PartitionsFlag = None,
    rows_per_record: RowsPerRecordFlag = None,
    passes: PassesFlag = None,
    wire: WireFlag = None,
    device: DeviceFlag = None,
    name: NameFlag = None,
    run_id: RunIdFlag = None,
    new_run: NewRunFlag = False,
    create: CreateFlag = True,
    delivery_timeout: DeliveryTimeoutFlag = 120.0,
    transactional: TransactionalFlag = False,
    metrics_port: MetricsFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Run a teacher and write its knowledge to a file or a topic.

    After an interruption the same command continues where it stopped.

    [bold]Examples[/bold]

      tutelage teach my_teacher.py:lesson --out teacher1.avro

      tutelage teach my_package.teachers:resnet --topic teacher1 -b localhost:9092 --wire float16

      tutelage teach tutelage.examples.toy.lessons:teacher1 --topic toy1 --device cpu --device cpu

      tutelage teach my_teacher.py:lesson --queries teacher1.queries --topic teacher1
    """
    from tutelage import FileSink, KafkaSink, Sink, Teacher
    from tutelage.cli.named_objects import load_lesson
    from tutelage.schemas.arguments import check_seconds
    from tutelage.schemas.container_format import check_codec

    _check_place(out, topic, for_files=overwrite or codec != "null", new_run=new_run, create=create)
    _check_queries(
        queries,
        topic,
        {
            "--passes": passes,
            "--rows-per-record": rows_per_record,
            "--partitions": partitions,
            "--run-id": run_id,
            "--new-run": new_run,
            "--transactional": transactional,
        },
    )
    _check_numbers(partitions, rows_per_record, passes)
    _check_texts(name, run_id, wire or (), device or ())
    sink: Sink
    # The sink comes before the lesson, whose module may change the working directory.
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
    lesson = load_lesson(teacher)
    made = Teacher(
        sink,
        name=typed_text("--name", name) if name is not None else lesson.name,
        revision=lesson.revision,
        inputs_fingerprint=lesson.inputs_fingerprint,
        head=lesson.head,
        passes=passes if passes is not None else lesson.passes,
        rows_per_record=rows_per_record if rows_per_record is not None else lesson.rows_per_record,
        wire=_wire(wire) if wire else lesson.wire,
        ragged_keys=lesson.ragged_keys,
        run_id=typed_text("--run-id", run_id) if run_id is not None else None,
        new_run=new_run,
    )
    with serve_metrics(metrics_port, lambda: _metrics(made), lambda: made.activity):
        if queries is None:
            _serve(made, lesson, device, sink.name)
        else:
            limits = {
                "max_rows": max_rows,
                "max_tokens": max_tokens,
                "session_timeout_s": session_timeout,
            }
            which = {"only": parse_only(only or ()), "give_up_after": give_up_after or None}
            _answer(made, lesson, queries, device, {**limits, **which, "stay": stay})


def _serve(teacher: Teacher, lesson: Lesson, devices: list[str] | None, name: str) -> None:
    """Serve the lesson, and print what was written to the sink of this name."""
    from tutelage.cli.progress import Progress, format_amount

    with teacher, Progress(f"teaching to {name}") as progress:
        run = teacher.run
        if run.complete:
            say(f"{name}: holds this run already, and all of it", error=True)
        elif run.generation:
            say(
                f"{name}: continuing a run in pass {run.pass_index}, after {run.skip_rows:,} rows",
                error=True,
            )
        teacher.serve(
            lesson.model,
            lesson.inputs,
            batch_size=lesson.batch_size,
            devices=devices or lesson.devices,
            progress=lambda run: progress.show(
                run.rows_written, run.records_written, "records", run.bytes_written
            ),
        )
        run = teacher.run
        total = format_amount(
            run.rows_written, run.records_written, "records", run.bytes_written, progress.seconds
        )
    say(f"{name}: {total}", error=True)


def _answer(
    teacher: Teacher,
    lesson: Lesson,
    queries: str,
    devices: list[str] | None,
    options: Mapping[str, Any],
) -> None:
    """Answer queries with the lesson's model, and print how many.

    Args:
        options: As `Teacher.answer` takes them.
    """
    from tutelage.cli.progress import Progress

    with Progress(f"answering queries of topic {queries}") as progress:
        replica = teacher.answer(
            lesson.model,
            queries,
            devices=devices or lesson.devices,
            progress=lambda replica: progress.show(
                replica.stats.rows, replica.stats.queries, "queries", replica.stats.nbytes
            ),
            **options,
        )
    stats = replica.stats
    say(
        f"{teacher.sink.name}: every query of {queries} has its answer, {stats.queries:,} of them "
        f"from here ({stats.rows:,} rows)",
        error=True,
    )


def _check_place(
    out: Path | None, topic: str | None, *, for_files: bool, new_run: bool, create: bool
) -> None:
    """Raise ConfigurationError unless there is one place to write to, and all flags apply to it."""
    from tutelage.schemas.errors import ConfigurationError

    if (out is None) == (topic is None):
        raise ConfigurationError(
            "say where to write: --out FILE.avro or --topic TOPIC, one of them"
        )
    if topic is not None and for_files:
        raise ConfigurationError(
            "--codec and --overwrite are about a file; with --topic there is none"
        )
    if out is not None and new_run:
        raise ConfigurationError(
            "--new-run is about a topic, which may hold several runs; a file holds one"
        )
    if out is not None and not create:
        raise ConfigurationError("--no-create is about a topic; with --out FILE.avro there is none")


def _check_queries(queries: str | None, topic: str | None, given: Mapping[str, object]) -> None:
    """Raise ConfigurationError for flags that do not go with `--queries`."""
    from tutelage.schemas.errors import ConfigurationError

    if queries is None:
        return
    if topic is None:
        raise ConfigurationError("answers go to a topic: give --topic TOPIC with --queries")
    for flag, value in given.items():
        if value:
            raise ConfigurationError(
                f"{flag} is about a run of inputs; leave it out with --queries"
            )


def _check_numbers(partitions: int | None, rows_per_record: int | None, passes: int | None) -> None:
    """Raise ConfigurationError for a number that is out of range."""
    from tutelage.schemas.arguments import check_whole_number

    for flag, number in (
        ("--partitions", partitions),
        ("--rows-per-record", rows_per_record),
        ("--passes", passes),
    ):
        if number is not None:
            check_whole_number(flag, number)


def _check_texts(
    name: str | None, run_id: str | None, wire: Sequence[str], devices: Sequence[str]
) -> None:
    """Raise ConfigurationError for an empty text, or for a device that torch does not know."""
    import torch

    from tutelage.schemas.arguments import check_text
    from tutelage.schemas.errors import ConfigurationError

    for flag, given in (
        ("--name", name),
        ("--run-id", run_id),
        *(("--wire", form) for form in wire),
        *(("--device", device) for device in devices),
    ):
        if given is not None:
            check_text(flag, typed_text(flag, given))
    for device in devices:
        try:
            torch.device(device)
        except RuntimeError as error:
            raise ConfigurationError(
                f"--device {device!r} is not a device of torch; name one such as cpu or cuda:0"
            ) from error


def _wire(given: Sequence[str]) -> str | dict[str, str]:
    """The forms of `--wire`: one for all floats, or one per key."""
    from tutelage.schemas.errors import ConfigurationError

    forms: dict[str, str] = {}
    for text in given:
        key, form = _split_form(text)
        if key is None and len(given) == 1:
            return form
        if key is None or key in forms:
            raise ConfigurationError(
                f"--wire {text!r} names {'no key' if key is None else 'a key again'}; give one "
                "form for all floats, or KEY=FORM once for each key"
            )
        forms[key] = form
    return forms


def _split_form(text: str) -> tuple[str | None, str]:
    """KEY=FORM as key and form. A key may hold any text, and a form options with `=`."""
    from tutelage.schemas.dtypes import DTYPES
    from tutelage.schemas.encodings import ENCODING_NAMES

    parts = text.split("=")
    for at in range(1, len(parts)):
        form = "=".join(parts[at:])
        if form.split(",")[0].split(":")[0] in {*DTYPES, *ENCODING_NAMES}:
            return "=".join(parts[:at]), form
    key, equals, form = text.rpartition("=")
    return (key if equals else None), form


def _metrics(teacher: Teacher) -> Collector:
    from tutelage.producers.metrics import TeacherMetrics

    return TeacherMetrics(teacher)
