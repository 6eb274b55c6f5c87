"""`tutelage learn`: merge sources; print, write or train."""

from __future__ import annotations

import os
from collections.abc import Iterator
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
from tutelage.cli.monitoring import MetricsFlag, monitored
from tutelage.cli.printing import say
from tutelage.schemas.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    import torch
    from prometheus_client.registry import Collector

    from tutelage import Student

_LARGEST = 2**31 - 1


def learn(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Files and topics; file:NAME and topic:NAME leave no doubt."
        ),
    ],
    merge: Annotated[
        list[str] | None,
        typer.Option(
            "--merge",
            "-m",
            metavar="KEY=STRATEGY",
            help="sum, mean, weighted_mean:W1,W2, max, min, stack, concat or first.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=_LARGEST)] = 64,
    batch_bytes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Bytes that one batch may take in memory, padding and all; a larger one is an error.",
            show_default="1 GiB",
        ),
    ] = DEFAULT_LIMITS.batch_bytes,
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Leave a shorter last batch out.")
    ] = False,
    rows: Annotated[
        int,
        typer.Option(
            min=-1,
            help="Print this many rows as JSON lines, each as soon as it is there, and end; -1 reads and prints all. With --out, --train or "
            "--checkpoint all is read.",
        ),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE.avro",
            help="Write the merged knowledge to an Avro file.",
            show_default=False,
        ),
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            metavar="MODULE:STUDENT",
            help="Call this with an iterator of batches, once a pass.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="Go on from it if it is there; write it every --checkpoint-every batches and at the end.",
            show_default=False,
        ),
    ] = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, max=_LARGEST)] = 100,
    sample_id: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="Compare this key between teachers, row by row.", show_default=False
        ),
    ] = None,
    truncate: Annotated[
        bool,
        typer.Option("--truncate", help="End at the shortest teacher instead of with an error."),
    ] = False,
    allow_other_inputs: Annotated[
        bool,
        typer.Option(
            "--allow-other-inputs", help="Merge although the teachers' input fingerprints differ."
        ),
    ] = False,
    run: Annotated[
        list[str] | None,
        typer.Option(
            "--run",
            metavar="[TOPIC=]RUN_ID",
            help="Read this run of a topic, not the newest; may be repeated. `tutelage inspect TOPIC` lists its runs.",
            show_default=False,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="Commit progress to this consumer group, for lag tools.", show_default=False
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for a teacher.")] = 600.0,
    print_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    metrics_port: MetricsFlag = None,
    bootstrap_server: BootstrapFlag = None,
    registry: RegistryFlag = None,
    command_config: FileFlag = None,
    x: OptionFlag = None,
) -> None:
    """Merge what teachers wrote; print it, write it, or train a student on it. Teachers of topics may start later.

    [bold]Examples[/bold]

      tutelage learn teacher1.avro teacher2.avro --merge result=mean --rows 5

      tutelage learn teacher1 teacher2.avro --merge logits=mean --train my_student.py:train --checkpoint student.json

      tutelage learn topic:teacher1 -b localhost:9092 --out merged.avro
    """
    from tutelage import RaggedFormat, Student
    from tutelage.cli.digest import Digest
    from tutelage.cli.printing import typed_text
    from tutelage.cli.progress import Progress
    from tutelage.cli.sources import pairs, runs_of, source_of
    from tutelage.cli.targets import callable_of
    from tutelage.schemas.arguments import absolute_path, seconds
    from tutelage.schemas.errors import ConfigurationError

    if out is not None and checkpoint is not None:
        raise ConfigurationError(
            "--out and --checkpoint do not go together: an interrupted --out goes on by itself, from its file"
        )
    # Paths are made absolute before the trainer is looked up: its module may change the working directory.
    out_path = absolute_path("--out", out) if out is not None else None
    saved_at = _checkpoint_path(checkpoint) if checkpoint is not None else None
    kafka = kafka_settings(bootstrap_server, registry, command_config, x)
    runs = runs_of(sources, run)
    read = [source_of(text, kafka, group=group, run=runs.get(text)) for text in sources]
    trainer = callable_of(train, "student") if train is not None else None
    # Rows that are only looked at must not wait until a batch is full.
    reads_all = rows <= 0 or out is not None or train is not None or checkpoint is not None
    student = Student(
        merge=dict(pairs(merge, "--merge")),
        sample_id=typed_text("--sample-id", sample_id) if sample_id is not None else None,
        on_length_mismatch="truncate" if truncate else "error",
        allow_other_inputs=allow_other_inputs,
        timeout_s=seconds("--timeout", timeout),
        limits=Limits(batch_bytes=batch_bytes),
        ragged_format=RaggedFormat(padded=False) if out is not None else None,
    )
    for source in read:
        student.register_teacher(source)
    if saved_at is not None and os.path.lexists(saved_at):
        student.load(saved_at)
        say(f"going on from {checkpoint}", error=True)
    digest = Digest()
    counted = {"rows": 0, "batches": 0}
    passes_read = 0
    watched = monitored(metrics_port, lambda: _metrics(student), lambda: student.activity)
    with watched, student, _Out(out_path, student) as written, Progress("learning") as progress:

        def one_pass() -> Iterator[dict[str, torch.Tensor]]:
            nonlocal passes_read
            for batch in student.knowledge(batch_size if reads_all else 1, drop_last=drop_last):
                digest.add(batch)
                counted["batches"] += 1
                size = len(next(iter(batch.values())))
                _print_rows(batch, size if rows < 0 else min(size, max(0, rows - counted["rows"])))
                counted["rows"] += size
                written.write(batch)
                progress.show(counted["rows"], counted["batches"], "batches")
                yield batch
                if saved_at is not None and counted["batches"] % checkpoint_every == 0:
                    student.save(saved_at)
                if not reads_all and counted["rows"] >= rows:
                    return
            passes_read += 1

        first = student.state_dict()["pass_index"]
        for _ in range(first, student.passes):
            batches = one_pass()
            if trainer is not None:
                trainer(batches)
            for _ in batches:
                pass
            if not reads_all and counted["rows"] >= rows:
                break
            written.end_pass()
            if saved_at is not None:
                student.save(saved_at)
        # Where all was read before, the last commit may not have arrived then.
        student.commit()
        result = {
            "keys": {spec.key: str(spec) for spec in student.description.specs},
            "passes": passes_read,
            **counted,
            "whole": passes_read == student.passes - first,
            "dropped": {
                what: sum(teacher[what] for teacher in student.dropped)
                for what in ("duplicates", "zombies")
            },
            "longest_wait_s": round(student.stats.longest_wait_s, 3),
            "digest": digest.hexdigest(),
            "seconds": round(progress.seconds, 3),
        }
    _print_result(result, print_json)


def _metrics(student: Student) -> Collector:
    from tutelage.consumers.metrics import StudentMetrics

    return StudentMetrics(student)


class _Out:
    """A file for the merged knowledge, or nothing."""

    def __init__(self, path: Path | None, student: Student) -> None:
        self._path = path
        self._student = student
        self._teacher: Any = None
        self._ragged: list[str] = []

    def __enter__(self) -> _Out:
        if self._path is not None:
            from tutelage import FileSink, Teacher

            self._ragged = [spec.key for spec in self._student.description.specs if spec.ragged]
            self._teacher = Teacher(
                FileSink(self._path), name="merged", passes=self._student.passes
            ).__enter__()
        return self

    def write(self, batch: dict[str, torch.Tensor]) -> None:
        if self._teacher is None:
            return
        from tutelage.consumers.stages.merge import LENGTHS_SUFFIX
        from tutelage.schemas.record import Ragged

        knowledge: dict[str, Any] = dict(batch)
        for key in self._ragged:
            lengths = knowledge.pop(key + LENGTHS_SUFFIX)
            knowledge[key] = Ragged(batch[key].numpy(), lengths.numpy())
        self._teacher.write(knowledge)

    def end_pass(self) -> None:
        """End the pass in the file too."""
        if self._teacher is not None:
            self._teacher.end_pass()

    def __exit__(self, *error: Any) -> None:
        if self._teacher is not None:
            self._teacher.__exit__(*error)


def _checkpoint_path(given: Path) -> Path:
    """Where the checkpoint is, whatever the working directory becomes. ConfigurationError, before any training, if it cannot be there."""
    from tutelage.schemas.arguments import absolute_path
    from tutelage.schemas.errors import ConfigurationError

    path = absolute_path("--checkpoint", given)
    if not os.path.isdir(path.parent):
        raise ConfigurationError(
            f"--checkpoint {given}: there is no folder {given.parent}; make it first"
        )
    return path


def _print_rows(batch: dict[str, torch.Tensor], count: int) -> None:
    """Rows as JSON lines; only here are tensors taken apart, and only as many rows as were asked for."""
    from tutelage.cli.strict_json import as_json

    if not count:
        return
    columns = {key: values[:count].tolist() for key, values in batch.items()}
    say(*(as_json({key: values[row] for key, values in columns.items()}) for row in range(count)))


def _print_result(result: dict[str, Any], print_json: bool) -> None:
    from tutelage.cli.strict_json import as_json

    if print_json:
        say(as_json(result))
        return
    for key, what in result["keys"].items():
        say(f"  {key}: {what}")
    if result["whole"]:
        say(
            f"{result['rows']:,} rows in {result['batches']:,} batches, {result['passes']} passes, {result['seconds']} s"
        )
    else:
        say(
            f"the first {result['rows']:,} rows, {result['seconds']} s; --rows -1 reads and prints all"
        )
    dropped = {what.removesuffix("s"): count for what, count in result["dropped"].items() if count}
    if dropped:
        say("dropped " + ", ".join(f"{count:,} {what} records" for what, count in dropped.items()))
    say(f"digest {'' if result['whole'] else 'of these rows '}{result['digest']}")
