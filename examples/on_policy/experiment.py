"""The experiment: students warm up on the corpus, then each variant's learn and are measured."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tutelage import ConfigurationError, FileSink, Sampled
from tutelage.examples.language_model import student as training
from tutelage.examples.language_model import teaching, text
from tutelage.examples.language_model.report import Results
from tutelage.examples.language_model.variants import file_passes, from_logits
from tutelage.examples.on_policy import measuring, models, report, variants
from tutelage.examples.on_policy.learning import Course, Learned
from tutelage.examples.on_policy.lesson import FOLDER, NAME
from tutelage.examples.on_policy.replicas import ELASTIC, Plan, Say
from tutelage.examples.on_policy.sizes import Size
from tutelage.losses import Head

#: Returns a teacher of the kind of Llama, and its tokenizer.
Load = Callable[[], tuple[PreTrainedModel, Any]]
_WARM_UP = "warm-up"


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What to run.

    Args:
        size: The sizes.
        seeds: How many students of each variant.
        folder: Where models and results are written. A run goes on with what is there.
        load: Loads the teacher.
        kafka: `bootstrap_servers` and `registry`.
        plan: When replicas start and die in a run of queries.
        only: The variants to run; all if empty.
        topics: What the names of topics begin with.
        device: Where models run.
        say: Called with a line of progress.
    """

    size: Size
    seeds: int
    folder: Path
    load: Load
    kafka: dict[str, Any]
    plan: Plan = ELASTIC
    only: tuple[str, ...] = ()
    topics: str = "on-policy"
    device: str = "cpu"
    say: Say = field(default=lambda line: None)

    def run(self) -> str:
        """Run what is missing, and write `results.md`, `results.json` and `results.png`.

        Returns:
            The tables, in Markdown.

        Raises:
            ConfigurationError: There is no such variant, the folder is of another experiment, or
                a replica failed.
            WaitTimeout: No answer came in time.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        chosen = self._chosen()
        teacher, tokenizer = self.load()
        if not (self.folder / FOLDER).exists():
            models.save(teacher, self.folder / FOLDER)
        given = text.read(tokenizer, self.size.whole)
        if len(given.train) < self.size.whole.train_windows:
            raise ConfigurationError(
                f"the text has {len(given.train)} windows, and {self.size.whole.train_windows} are "
                "needed for windows that no student sees twice; give fewer --steps"
            )
        settings = json.dumps({"windows": given.fingerprint, **self.size.settings()})
        results = Results(self.folder / "rows.jsonl", settings, report.Row)
        teacher.to(self.device)  # type: ignore[arg-type]
        bench = _Bench(self, teacher, given)
        for seed in range(self.seeds):
            if not results.has(variants.START, seed):
                results.add(bench.row(variants.START, settings, bench.begun(seed), seed))
        for variant in chosen:
            seeds = [seed for seed in range(self.seeds) if not results.has(variant.name, seed)]
            if not seeds:
                continue
            with contextlib.closing(self._course(variant, given, bench, settings, seeds)) as course:
                for learned in course:
                    results.add(bench.learned(variant.name, settings, learned))
        return self._report(results)

    def _chosen(self) -> list[variants.Variant]:
        names = [variant.name for variant in variants.ALL]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ConfigurationError(f"there is no variant {unknown[0]!r}; there are {names}")
        return [variant for variant in variants.ALL if not self.only or variant.name in self.only]

    def _course(
        self,
        variant: variants.Variant,
        given: text.Text,
        bench: _Bench,
        settings: str,
        seeds: list[int],
    ) -> Generator[Learned, None, None]:
        # Each experiment has topics of its own, whatever else the broker holds.
        stands_for = hashlib.sha256(f"{settings} {seeds}".encode()).hexdigest()[:10]
        run_id = f"{variant.topic}.{stands_for}"
        return Course(
            variant=variant,
            size=self.size,
            windows=given.train[self.size.warm_up.train_windows :],
            begin=bench.begun,
            topic=f"{self.topics}.{run_id}",
            run_id=run_id,
            kafka=self.kafka,
            folder=self.folder,
            plan=self.plan,
            device=self.device,
            say=self.say,
        ).learn(seeds)

    def _report(self, results: Results[report.Row]) -> str:
        rows = results.by_variant()
        starts, kills = len(self.plan.starts), len(self.plan.kills)
        found = (
            "Mean and 95 % confidence interval over seeds, in nats. In each run of queries "
            f"{starts} replicas of the teacher were started and {kills} killed.\n\n"
            + report.table(rows)
        )
        (self.folder / "results.md").write_text(f"{found}\n", encoding="utf-8")
        (self.folder / "results.json").write_text(
            json.dumps(report.summary(rows), indent=1), encoding="utf-8"
        )
        report.plot(rows, self.folder / "results.png")
        return found


class _Bench:
    """Makes the students that the comparison begins with, and measures students."""

    def __init__(self, experiment: Experiment, teacher: PreTrainedModel, given: text.Text) -> None:
        self._experiment = experiment
        self._teacher = teacher
        self._text = given
        self._head = Head.from_model(teacher).detached()
        shelf = teaching.Shelf(
            folder=experiment.folder, text=given, device=experiment.device, say=experiment.say
        )
        shelf.write_held_out(NAME, lambda: teacher)
        self._held_out = shelf.path(f"{NAME}-held-out")

    def begun(self, seed: int) -> PreTrainedModel:
        """The student of a seed before the comparison, on the device."""
        device, size = self._experiment.device, self._experiment.size.warm_up
        folder = self._experiment.folder / f"student-{seed}"
        if not folder.exists():
            trained = training.train(
                training.made(size, self._teacher, seed),
                lambda: file_passes([self._warm_up()])(size.batch_rows),
                partial(from_logits, head=self._head),
                size=size,
                device=device,
            )
            models.save(trained.model.cpu(), folder)
            self._experiment.say(f"seed {seed}: warmed up ({trained.seconds:.0f} s)")
        return models.load(folder, device)

    def learned(self, variant: str, settings: str, learned: Learned) -> report.Row:
        """Measure a student that has learned."""
        size, trained = self._experiment.size, learned.trained
        return self.row(
            variant,
            settings,
            trained.model,
            learned.seed,
            tokens=size.text.steps * size.text.batch_rows * size.continued,
            answer_bytes=learned.answer_bytes,
            query_bytes=learned.query_bytes,
            seconds=trained.seconds,
        )

    def row(
        self, variant: str, settings: str, model: PreTrainedModel, seed: int, **took: Any
    ) -> report.Row:
        """Measure a student."""
        experiment = self._experiment
        scores = training.measure(
            model,
            file_passes([self._held_out])(experiment.size.text.batch_rows),
            self._head,
            device=experiment.device,
        )
        own = measuring.own_reverse_kl(
            model, self._teacher, self._text.held_out, experiment.size, device=experiment.device
        )
        kept = asdict(scores)
        del kept["calibration_error"]
        found = {"tokens": 0, **kept, **took}
        experiment.say(
            f"{variant}, seed {seed}: KL {scores.kl:.3f}, reverse KL on own texts {own:.3f} "
            f"({found.get('seconds', 0):.0f} s)"
        )
        return report.Row(
            variant=variant, seed=seed, settings=settings, own_reverse_kl=own, **found
        )

    def _warm_up(self) -> Path:
        """The teacher's draws for the windows that students warm up on."""
        experiment = self._experiment
        path = experiment.folder / f"{_WARM_UP}.avro"
        if not path.exists():
            teaching.serve(
                FileSink(path),
                self._teacher,
                self._text.train[: experiment.size.warm_up.train_windows],
                self._text,
                name=_WARM_UP,
                wire=Sampled(experiment.size.draws, tokenizer=self._text.tokenizer),
                device=experiment.device,
            )
        return path
