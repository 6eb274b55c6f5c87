"""`tutelage learn`: merges the knowledge of teachers; prints it, writes it or trains a student."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutelage.cli.kafka_flags import (
    BootstrapFlag,
    FileFlag,
    OptionFlag,
    RegistryFlag,
    kafka_settings,
)
from tutelage.cli.monitoring import MetricsFlag, serve_metrics
from tutelage.cli.printing import say
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from prometheus_client.registry import Collector

    from tutelage import Student

_LARGEST = 2**31 - 1

SourcesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE...",
        help="The files and topics to merge. file:NAME and topic:NAME are unambiguous.",
    ),
]
MergeFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--merge",
        "-m",
        metavar="KEY=STRATEGY",
        help="Merge this key by sum, mean, weighted_mean:W1,W2, max, min, stack, concat, first, "
        "same or answered; may be repeated.",
        show_default=False,
    ),
]
BatchSizeFlag = Annotated[
    int, typer.Option(min=1, max=_LARGEST, help="Make batches of this many rows.")
]
BatchBytesFlag = Annotated[
    int,
    typer.Option(
        min=1,
        help="Fail if a batch needs more than this many bytes of memory, padding included.",
        show_default="1 GiB",
    ),
]
DropLastFlag = Annotated[
    bool, typer.Option("--drop-last", help="Drop the last batch of a pass if it is shorter.")
]
RowsFlag = Annotated[
    int,
    typer.Option(
        min=-1,
        help="Print this many rows as JSON lines, each as soon as it arrives, and stop; -1 prints "
        "all rows. With --out, --train or --checkpoint, everything is read all the same.",
    ),
]
OutFlag = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.avro",
        help="Write the merged knowledge to an Avro file.",
        show_default=False,
    ),
]
TrainFlag = Annotated[
    str | None,
    typer.Option(
        "--train",
        metavar="MODULE:STUDENT",
        help="Call this function once per pass with an iterator of batches.",
        show_default=False,
    ),
]
CheckpointFlag = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Continue from this checkpoint if it exists. It is written every --checkpoint-every "
        "batches and at the end of each pass.",
        show_default=False,
    ),
]
CheckpointEveryFlag = Annotated[
    int,
    typer.Option(min=1, max=_LARGEST, help="Write the checkpoint after this many batches."),
]
SampleIdFlag = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Compare this key between the teachers, row by row, and fail if it differs.",
        show_default=False,
    ),
]
TruncateFlag = Annotated[
    bool,
    typer.Option(
        "--truncate", help="If the teachers' lengths differ, end with the shortest; do not fail."
    ),
]
SkipUnansweredFlag = Annotated[
    bool,
    typer.Option(
        "--skip-unanswered",
        help="Leave out the rows of queries that no teacher answered; do not fail.",
    ),
]
OtherInputsFlag = Annotated[
    bool,
    typer.Option(
        "--allow-other-inputs", help="Merge even if the teachers' input fingerprints differ."
    ),
]
RunsFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--run",
        metavar="[TOPIC=]RUN_ID",
        help="Read this run of a topic instead of the newest one; may be repeated. "
        "`tutelage inspect TOPIC` lists the runs.",
        show_default=False,
    ),
]
GroupFlag = Annotated[
    str | None,
    typer.Option(
        help="Commit the progress to this consumer group, where tools that show lag find it.",
        show_default=False,
    ),
]
TimeoutFlag = Annotated[
    float, typer.Option(help="Wait at most this many seconds for a teacher's next record.")
]


def learn(
    sources: SourcesArgument,
    merge: MergeFlag = None,
    batch_size: BatchSizeFlag = 64,
    batch_bytes: BatchBytesFlag = DEFAULT_LIMITS.batch_bytes,
    drop_last: DropLastFlag = False,
    rows: RowsFlag = 0,
    out: OutFlag = None,
    train: TrainFlag = None,
    checkpoint: CheckpointFlag = None,
    checkpoint_every: CheckpointEveryFlag = 100,
    sample_id: SampleIdFlag = None,
    truncate: TruncateFlag = False,
    skip_unanswered: SkipUnansweredFlag = False,
    allow_other_inputs: OtherInputsFlag = False,
    run: RunsFlag = None,
    group: GroupFlag = None,
    timeout: TimeoutFlag = 600.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    metrics_port: MetricsFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Merge the knowledge of teachers, and print it, write it, or train a student on it.

    Teachers that write to topics may start later than this command.

    [bold]Examples[/bold]

      tutelage learn teacher1.avro teacher2.avro --merge result=mean --rows 5

      tutelage learn teacher1 teacher2.avro -m logits=mean --train my.py:train --checkpoint my.json

      tutelage learn topic:teacher1 -b localhost:9092 --out merged.avro
    """
    from tutelage import RaggedFormat, Student
    from tutelage.cli.learn_passes import Learning
    from tutelage.cli.named_objects import load_function
    from tutelage.cli.printing import typed_text
    from tutelage.cli.sources import make_source, parse_pairs, parse_runs
    from tutelage.schemas.arguments import absolute_path, check_seconds
    from tutelage.schemas.errors import ConfigurationError

    if out is not None and checkpoint is not None:
        raise ConfigurationError(
            "--out and --checkpoint do not go together: an interrupted --out continues by itself"
        )
    # Paths are made absolute before the trainer's module is imported: it may change the working
    # directory.
    out_path = absolute_path("--out", out) if out is not None else None
    saved_at = _checkpoint_path(checkpoint) if checkpoint is not None else None
    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    runs = parse_runs(sources, run)
    read = [make_source(text, kafka, group=group, run=runs.get(text)) for text in sources]
    trainer = load_function(train, "student") if train is not None else None
    student = Student(
        merge=dict(parse_pairs(merge, "--merge")),
        sample_id=typed_text("--sample-id", sample_id) if sample_id is not None else None,
        on_length_mismatch="truncate" if truncate else "error",
        on_unanswered="skip" if skip_unanswered else "error",
        allow_other_inputs=allow_other_inputs,
        timeout_s=check_seconds("--timeout", timeout),
        limits=Limits(batch_bytes=batch_bytes),
        ragged_format=RaggedFormat(padded=False) if out is not None else None,
    )
    for source in read:
        student.register_teacher(source)
    if saved_at is not None and os.path.lexists(saved_at):
        student.load(saved_at)
        say(f"continuing from {checkpoint}", error=True)
    learning = Learning(
        student,
        batch_size=batch_size,
        drop_last=drop_last,
        rows=rows,
        out=out_path,
        trainer=trainer,
        checkpoint=saved_at,
        checkpoint_every=checkpoint_every,
    )
    with serve_metrics(metrics_port, lambda: _metrics(student), lambda: student.activity):
        result = learning.run()
    _print_result(result, print_json)


def _metrics(student: Student) -> Collector:
    from tutelage.consumers.metrics import StudentMetrics

    return StudentMetrics(student)


def _checkpoint_path(given: Path) -> Path:
    """The checkpoint's absolute path. Raises ConfigurationError if a checkpoint cannot be there."""
    from tutelage.schemas.arguments import absolute_path
    from tutelage.schemas.errors import ConfigurationError

    path = absolute_path("--checkpoint", given)
    if not os.path.isdir(path.parent):
        raise ConfigurationError(
            f"--checkpoint {given}: there is no folder {given.parent}; make it first"
        )
    return path


def _print_result(result: dict[str, Any], print_json: bool) -> None:
    from tutelage.cli.strict_json import as_json

    if print_json:
        say(as_json(result))
        return
    for key, spec in result["keys"].items():
        say(f"  {key}: {spec}")
    if result["whole"]:
        say(
            f"{result['rows']:,} rows in {result['batches']:,} batches, "
            f"{result['passes']} passes, {result['seconds']} s"
        )
    else:
        say(
            f"the first {result['rows']:,} rows, {result['seconds']} s; "
            "--rows -1 reads and prints all"
        )
    dropped = {kind.removesuffix("s"): count for kind, count in result["dropped"].items() if count}
    if dropped:
        say("dropped " + ", ".join(f"{count:,} {kind} records" for kind, count in dropped.items()))
    say(f"digest {'' if result['whole'] else 'of these rows '}{result['digest']}")
