"""The flags of `tutelage teach`, and how `--only` is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tutelage.cli.printing import typed_text

TeacherArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODULE:TEACHER",
        help="The Lesson to teach, or a function that returns one; FILE.py:NAME works too.",
    ),
]
OutFlag = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.avro",
        help="Write the knowledge to this Avro file.",
        show_default=False,
    ),
]
TopicFlag = Annotated[
    str | None,
    typer.Option(
        "--topic",
        "-t",
        metavar="TOPIC",
        help="Write the knowledge to this Kafka topic.",
        show_default=False,
    ),
]
QueriesFlag = Annotated[
    str | None,
    typer.Option(
        "--queries",
        metavar="TOPIC",
        help="Answer the queries in this topic instead of teaching the lesson's inputs. Any number "
        "of these commands share the queries of a topic; start and stop them at any time.",
        show_default=False,
    ),
]
MaxRowsFlag = Annotated[
    int, typer.Option(help="With --queries, give the model at most this many rows at once.")
]
MaxTokensFlag = Annotated[
    int | None,
    typer.Option(
        help="With --queries, give the model at most this many tokens at once, padding included.",
        show_default=False,
    ),
]
StayFlag = Annotated[
    bool,
    typer.Option(
        "--stay",
        help="With --queries, wait for the next run of queries once every query has its answer, "
        "instead of ending.",
    ),
]
SessionTimeoutFlag = Annotated[
    float,
    typer.Option(
        help="With --queries, let others take over after this many seconds without a sign of life."
    ),
]
OnlyFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=NUMBER",
        help="With --queries, answer only the rows in which this key has this value, such as "
        "teacher=2; may be repeated.",
        show_default=False,
    ),
]
GiveUpAfterFlag = Annotated[
    int,
    typer.Option(
        help="With --queries, give up a query that has ended this many replicas, at least 2; 0 for "
        "never."
    ),
]
CodecFlag = Annotated[
    str, typer.Option(help="Compress the file with null (not at all), deflate or zstandard.")
]
OverwriteFlag = Annotated[
    bool, typer.Option("--overwrite", help="Replace the file if it exists, finished or not.")
]
PartitionsFlag = Annotated[
    int | None,
    typer.Option(
        help="Create the topic with this many partitions. Without it, 4.", show_default=False
    ),
]
RowsPerRecordFlag = Annotated[
    int | None,
    typer.Option(
        help="Put this many rows into a record. Without it, as many as make about 4 MB.",
        show_default=False,
    ),
]
PassesFlag = Annotated[
    int | None,
    typer.Option(
        help="Go over the inputs this many times. Without it, as often as the lesson says.",
        show_default=False,
    ),
]
WireFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[KEY=]FORM",
        help="Send all floats as float16, bfloat16 or float32; or one key as one of these or as "
        "sampled:DRAWS, topk:K or int8, such as logits=sampled:25; may be repeated.",
        show_default=False,
    ),
]
DeviceFlag = Annotated[
    list[str] | None,
    typer.Option(
        help="Run the model on this device, such as cuda:0 or cpu; may be repeated.",
        show_default=False,
    ),
]
NameFlag = Annotated[
    str | None,
    typer.Option(
        help="Give the teacher this name, by which the student knows it. Without it, the lesson's.",
        show_default=False,
    ),
]
RunIdFlag = Annotated[
    str | None,
    typer.Option(
        help="Give the run this id. If that run is already complete, the command does nothing.",
        show_default=False,
    ),
]
NewRunFlag = Annotated[
    bool,
    typer.Option(
        "--new-run",
        help="Begin a new run after the one that the topic holds, as a daily job does. With "
        "--run-id, the same command continues its run when it is repeated.",
    ),
]
DeliveryTimeoutFlag = Annotated[
    float,
    typer.Option(
        help="Stop the teacher when the brokers have been unreachable for this many seconds, at "
        "the start or later."
    ),
]
TransactionalFlag = Annotated[
    bool,
    typer.Option(
        "--transactional",
        help="Write in Kafka transactions, for other programs that read committed data only.",
    ),
]


def parse_only(given: Sequence[str]) -> dict[str, int]:
    """Read `--only`: texts KEY=NUMBER -> key and number.

    Raises:
        ConfigurationError: A text has another form.
    """
    from tutelage.schemas.errors import ConfigurationError

    found = {}
    for text in given:
        key, _, number = text.rpartition("=")
        try:
            found[typed_text("--only", key)] = int(number)
        except ValueError:
            raise ConfigurationError(
                f"--only is {text!r}; it must be KEY=NUMBER, such as teacher=2"
            ) from None
    return found
