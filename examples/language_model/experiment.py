"""The experiment: the teachers write, each variant's students learn, the results are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from tutelage import ConfigurationError
from tutelage.examples.language_model import report, student, teaching, text, variants
from tutelage.examples.language_model.sizes import Size
from tutelage.examples.language_model.teaching import Say, Shelf
from tutelage.examples.language_model.variants import BASE
from tutelage.losses import Head

#: Returns a teacher and its tokenizer.
Load = Callable[[], tuple[PreTrainedModel, Any]]
_DRAWS = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Experiment:
    """What to run.

    Args:
        size: The sizes.
        seeds: How many students of each variant.
        folder: Where knowledge and results are written. A run goes on with what is there.
        load: Loads the teacher.
        only: The variants to run; all if empty.
        device: Where models run.
        say: Called with a line of progress.
    """

    size: Size
    seeds: int
    folder: Path
    load: Load
    only: tuple[str, ...] = ()
    device: str = "cpu"
    say: Say = lambda line: None

    def run(self) -> str:
        """Run what is missing, and write `results.md`, `results.json` and `results.png`.

        Returns:
            The tables, in Markdown.

        Raises:
            ConfigurationError: There is no such variant, or the folder is of another experiment.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        load = cache(self.load)
        given = text.read(load()[1], self.size)
        settings = json.dumps({"text": given.fingerprint, **asdict(self.size)})
        results = report.Results(self.folder / "rows.jsonl", settings, report.Row)
        passes = self.size.passes(len(given.train))
        chosen = self._chosen()
        shelf = Shelf(folder=self.folder, text=given, device=self.device, say=self.say)
        shelf.write_states(BASE, lambda: load()[0])
        shelf.write_held_out(BASE, lambda: load()[0])
        head = shelf.head(BASE).to(self.device)
        for variant in chosen:
            if not all(results.has(variant.name, seed) for seed in range(self.seeds)):
                for teacher in variant.teachers:
                    if teacher != BASE:
                        shelf.write_states(teacher, partial(self._tuned, teacher, given))
                    shelf.encode(teacher, variant.encoding, passes)
                self._learn(variant, results, shelf, head, load()[0])
        return self._report(results, shelf)

    def _chosen(self) -> list[variants.Variant]:
        names = [variant.name for variant in variants.ALL]
        unknown = [name for name in self.only if name not in names]
        if unknown:
            raise ConfigurationError(f"there is no variant {unknown[0]!r}; there are {names}")
        return [variant for variant in variants.ALL if not self.only or variant.name in self.only]

    def _tuned(self, teacher: str, given: text.Text) -> PreTrainedModel:
        """A copy of the teacher that was trained further on a half of the text."""
        half = len(given.train) // 2
        windows = given.train[:half] if teacher == variants.FIRST else given.train[half:]
        self.say(f"training a teacher further on the {teacher} half of the text")
        return teaching.trained_further(
            self.load()[0], windows, rate=self.size.tuning_rate, device=self.device
        )

    def _learn(
        self,
        variant: variants.Variant,
        results: report.Results[report.Row],
        shelf: Shelf,
        head: Head,
        teacher: PreTrainedModel,
    ) -> None:
        """Train and measure the students of one variant that are missing."""
        files = [shelf.path(name) for name in variant.files]
        read: variants.Passes = variants.file_passes(files)
        taken = [shelf.written()[name] for name in variant.files]
        nbytes = sum(each.bytes_per_token for each in taken)
        seconds = sum(each.s_per_token for each in taken)
        if variant.name == "cross-entropy":
            nbytes = seconds = 0.0
        elif variant.name.startswith("multinomial"):
            drawn = variants.MultinomialPasses(
                read,
                head,
                _DRAWS,
                passes=self.size.passes(len(shelf.text.train)),
                device=self.device,
            )
            drawn(self.size.batch_rows)
            read, nbytes, seconds = drawn, drawn.bytes_per_token, 0.0
        for seed in range(self.seeds):
            if results.has(variant.name, seed):
                continue
            trained = student.train(
                student.made(self.size, teacher, seed),
                lambda: read(self.size.batch_rows),
                partial(variant.loss, head=head),
                size=self.size,
                device=self.device,
            )
            held_out = variants.file_passes([shelf.path(f"{BASE}-held-out")])
            scores = student.measure(
                trained.model, held_out(self.size.batch_rows), head, device=self.device
            )
            results.add(
                report.Row(
                    variant=variant.name,
                    seed=seed,
                    settings=results.settings,
                    tokens=trained.tokens,
                    bytes_per_token=nbytes,
                    encoding_s_per_token=seconds,
                    student_s_per_token=trained.seconds / trained.tokens,
                    **asdict(scores),
                )
            )
            self.say(
                f"{variant.name}, seed {seed}: cross-entropy {scores.cross_entropy:.3f}, "
                f"KL {scores.kl:.3f} ({trained.seconds:.0f} s)"
            )

    def _report(self, results: report.Results[report.Row], shelf: Shelf) -> str:
        rows = results.by_variant()
        merged = [variant.name for variant in variants.ALL if BASE not in variant.teachers]
        encodings = [variant.name for variant in variants.ALL if variant.name not in merged]
        forward = 1000 * shelf.written()[f"{BASE}-hidden32"].s_per_token
        parts = [
            f"{self.seeds} seeds, {results.rows[0].tokens:,} tokens each. Mean and 95 % confidence "
            f"interval, on text that was held out. The teacher's forward pass took {forward:.2f} ms "
            "a token.",
            report.table(rows, encodings),
            "Two teachers, each trained further on one half of the text:",
            # Their teachers are different models, so they are compared on the text itself.
            report.table(rows, merged, baseline=variants.FIRST_HALF, compared="cross_entropy"),
        ]
        found = "\n\n".join(parts)
        (self.folder / "results.md").write_text(f"{found}\n", encoding="utf-8")
        (self.folder / "results.json").write_text(
            json.dumps(report.summary(rows), indent=1), encoding="utf-8"
        )
        report.plot(rows, [encodings, merged], self.folder / "results.png")
        return found
