"""`tutelage demo`: the toy in all three modes, record and replay, and one real distillation."""

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
    from rich.table import Table

    from tutelage import Sink, Source
    from tutelage.deploy.local import StackAddresses

#: The exit code if only the offline part ran, because Java or Maven is missing.
OFFLINE_ONLY = 8
BATCH_SIZE = 32


def demo(
    out_folder: Annotated[
        Path,
        typer.Option(
            "--out-folder", help="Write the table and the plot of the distillation to this folder."
        ),
    ] = Path("demo-output"),
    seeds: Annotated[
        int,
        typer.Option(
            min=2, help="Repeat the distillation with this many seeds; 20 take about two minutes."
        ),
    ] = 8,
) -> None:
    """Run the toy offline, online and hybrid, record and replay it, and distil experts on digits.

    The results of all modes must be equal. A broker and a registry are started for the demo and
    stopped after it. Without Java or Maven, only the parts that need no broker run, and the exit
    code is 8.
    """
    from tutelage.schemas.arguments import absolute_path
    from tutelage.schemas.errors import ConfigurationError, DataError

    out_folder = absolute_path("--out-folder", out_folder)
    try:
        out_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"--out-folder {out_folder} cannot be made: {error.strerror}"
        ) from error
    with _stack() as addresses, tempfile.TemporaryDirectory() as folder:
        toy = _Toy(Path(folder))
        toy.run(addresses)
        say("")
        _distil(seeds, out_folder, addresses)
    if len(toy.digests) != 1:
        say("the results of the modes differ, which is a defect", error=True)
        raise typer.Exit(DataError.exit_code)
    if addresses is None:
        say("only the offline part ran: see above for what is missing", error=True)
        raise typer.Exit(OFFLINE_ONLY)


@contextlib.contextmanager
def _stack() -> Iterator[StackAddresses | None]:
    """A stack while the block runs; None if none can run here."""
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


class _Toy:
    """Two teachers and a student in each mode. `digests` has one element if results are equal."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.digests: set[str] = set()

    def run(self, addresses: StackAddresses | None) -> None:
        """Run every mode that is possible, and print a table."""
        from rich.table import Table

        from tutelage import FileSink, FileSource
        from tutelage.examples.toy.lessons import MAX_N

        table = Table(title=f"the toy: 0 to {MAX_N - 1}, two teachers, result merged by mean")
        for column in ("mode", "rows", "digest of the output", "seconds"):
            table.add_column(
                column, justify="right" if column in ("rows", "seconds") else "left", no_wrap=True
            )
        files = [self._folder / "teacher1.avro", self._folder / "teacher2.avro"]
        began = time.monotonic()
        _teach(FileSink(files[0]), FileSink(files[1]))
        self._learn(table, "offline", FileSource(files[0]), FileSource(files[1]), began)
        if addresses is not None:
            self._run_online(table, files[0], addresses)
        draw(table)

    def _run_online(self, table: Table, file: Path, addresses: StackAddresses) -> None:
        """Run the modes that need a broker. `file` is the first teacher's."""
        from tutelage import FileSink, FileSource, KafkaSink, KafkaSource
        from tutelage.tools.copy import copy_stream

        kafka: dict[str, Any] = {
            "bootstrap_servers": addresses.bootstrap_servers,
            "registry": addresses.registry,
        }

        def topic(name: str) -> KafkaSource:
            return KafkaSource(name, **kafka)

        began = time.monotonic()
        _teach(KafkaSink("teacher1", **kafka), KafkaSink("teacher2", partitions=3, **kafka))
        self._learn(table, "online", topic("teacher1"), topic("teacher2"), began)
        began = time.monotonic()
        self._learn(table, "hybrid", FileSource(file), topic("teacher2"), began)
        began = time.monotonic()
        recorded = self._folder / "recorded.avro"
        for source, sink in (
            (topic("teacher1"), FileSink(recorded)),
            (FileSource(recorded), KafkaSink("teacher1-again", **kafka)),
        ):
            with contextlib.closing(source), contextlib.closing(sink):
                copy_stream(source, sink, timeout_s=60)
        replayed = topic("teacher1-again")
        self._learn(table, "recorded and replayed", replayed, topic("teacher2"), began)

    def _learn(
        self, table: Table, mode: str, source1: Source, source2: Source, began: float
    ) -> None:
        """Merge the two sources and add a row to the table."""
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
        self.digests.add(digest.hexdigest())
        table.add_row(mode, str(rows), digest.hexdigest(), f"{time.monotonic() - began:.2f}")


def _teach(sink1: Sink, sink2: Sink) -> None:
    """Write the knowledge of the toy's two teachers."""
    from tutelage import Teacher
    from tutelage.examples.toy.lessons import teacher1, teacher2

    for sink, lesson in ((sink1, teacher1()), (sink2, teacher2())):
        with Teacher(
            sink, name=lesson.name, inputs_fingerprint=lesson.inputs_fingerprint
        ) as teacher:
            teacher.serve(lesson.model, lesson.inputs)


def _distil(seeds: int, folder: Path, addresses: StackAddresses | None) -> None:
    """Run the experiment on digits, if its packages are installed, and print its table."""
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
