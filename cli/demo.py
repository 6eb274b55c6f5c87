"""`tutelage demo`: the seed example in all three modes, record and replay, and one real distillation."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tutelage.cli.printing import draw, say

if TYPE_CHECKING:
    from tutelage import Sink, Source
    from tutelage.deploy.local import StackAddresses

#: What the demo exits with when the offline part ran and the rest could not, for want of Java or Maven.
OFFLINE_ONLY = 8
BATCH_SIZE = 32


def demo(
    out_folder: Annotated[
        Path, typer.Option("--out-folder", help="Where the distillation's table and plot go.")
    ] = Path("demo-output"),
    seeds: Annotated[
        int, typer.Option(min=2, help="Of the distillation; 20 take about two minutes.")
    ] = 8,
) -> None:
    """Run the toy offline, online and hybrid and compare, record and replay it, then distil three experts on digits.

    Starts a broker and a registry of its own and stops them. Without Java or Maven it runs what needs no broker and exits with 8.
    """
    from tutelage.schemas.arguments import absolute_path
    from tutelage.schemas.errors import ConfigurationError

    out_folder = absolute_path("--out-folder", out_folder)
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--out-folder {out_folder} cannot be made: {error.strerror}"
        ) from error
    with _stack() as addresses, tempfile.TemporaryDirectory() as folder:
        same = _toy(Path(folder), addresses)
        say("")
        _distil(seeds, out_folder, addresses)
    if not same:
        say("the modes differ; that must not be", error=True)
        raise typer.Exit(5)
    if addresses is None:
        say("only the offline part ran: see above for what is missing", error=True)
        raise typer.Exit(OFFLINE_ONLY)


@contextlib.contextmanager
def _stack() -> Iterator[StackAddresses | None]:
    from tutelage.deploy.local import Stack, StackError

    with tempfile.TemporaryDirectory() as folder:
        stack = Stack(Path(folder) / "stack")
        try:
            say("starting a broker and a registry ...", error=True)
            addresses = stack.up()
        except StackError as error:
            say(str(error), error=True)
            yield None
            return
        try:
            yield addresses
        finally:
            stack.down()


def _toy(folder: Path, addresses: StackAddresses | None) -> bool:
    """Teach, merge and compare; says whether all digests are equal."""
    from rich.table import Table

    from tutelage import FileSink, FileSource, KafkaSink, KafkaSource
    from tutelage.examples.toy.lessons import MAX_N
    from tutelage.tools.copy import copy_stream

    table = Table(title=f"the toy: 0 to {MAX_N - 1}, two teachers, result merged by mean")
    for column in ("mode", "rows", "digest of the output", "seconds"):
        table.add_column(
            column, justify="right" if column in ("rows", "seconds") else "left", no_wrap=True
        )
    digests: set[str] = set()

    def learned(mode: str, source1: Source, source2: Source, began: float) -> None:
        rows, digest = _learned(source1, source2)
        digests.add(digest)
        table.add_row(mode, str(rows), digest, f"{time.monotonic() - began:.2f}")

    files = [folder / "teacher1.avro", folder / "teacher2.avro"]
    began = time.monotonic()
    _taught(FileSink(files[0]), FileSink(files[1]))
    learned("offline", FileSource(files[0]), FileSource(files[1]), began)
    if addresses is not None:
        kafka: dict[str, Any] = {
            "bootstrap_servers": addresses.bootstrap_servers,
            "registry": addresses.registry,
        }
        began = time.monotonic()
        _taught(KafkaSink("teacher1", **kafka), KafkaSink("teacher2", partitions=3, **kafka))
        learned("online", KafkaSource("teacher1", **kafka), KafkaSource("teacher2", **kafka), began)
        began = time.monotonic()
        learned("hybrid", FileSource(files[0]), KafkaSource("teacher2", **kafka), began)
        began = time.monotonic()
        recorded = folder / "recorded.avro"
        for source, sink in (
            (KafkaSource("teacher1", **kafka), FileSink(recorded)),
            (FileSource(recorded), KafkaSink("teacher1-again", **kafka)),
        ):
            with contextlib.closing(source), contextlib.closing(sink):
                copy_stream(source, sink, timeout_s=60)
        learned(
            "recorded and replayed",
            KafkaSource("teacher1-again", **kafka),
            KafkaSource("teacher2", **kafka),
            began,
        )
    draw(table)
    return len(digests) == 1


def _taught(sink1: Sink, sink2: Sink) -> None:
    from tutelage import Teacher
    from tutelage.examples.toy.lessons import teacher1, teacher2

    for sink, lesson in ((sink1, teacher1()), (sink2, teacher2())):
        with Teacher(
            sink, name=lesson.name, inputs_fingerprint=lesson.inputs_fingerprint
        ) as teacher:
            teacher.serve(lesson.model, lesson.inputs)


def _learned(source1: Source, source2: Source) -> tuple[int, str]:
    from tutelage import Student
    from tutelage.cli.digest import Digest

    student = Student(merge={"result": "mean"}, timeout_s=60)
    student.register_teacher(source1)
    student.register_teacher(source2)
    digest, rows = Digest(), 0
    with student:
        for batch in student.knowledge(BATCH_SIZE):
            digest.add(batch)
            rows += len(batch["result"])
    return rows, digest.hexdigest()


def _distil(seeds: int, folder: Path, addresses: StackAddresses | None) -> None:
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

        from tutelage.examples.digits.run import experiment
    except ImportError as error:
        say(f"the distillation needs {error.name}: pip install 'tutelage[demo]'", error=True)
        return
    say(f"digits: three experts, one small student, {seeds} seeds")
    online = (addresses.bootstrap_servers, addresses.registry) if addresses is not None else None
    say(*experiment(seeds, folder, online, lambda line: say(f"  {line}")).splitlines())
    say(f"table and plot: {folder}/results.md, {folder}/results.png")
