"""The on-policy example, with a tiny teacher, a real broker, and replicas as processes, one of which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.replicas import written
from transformers import PreTrainedModel

from tutelage import ConfigurationError
from tutelage.examples.on_policy import generation, measuring, models, report, tiny, variants
from tutelage.examples.on_policy.experiment import Experiment
from tutelage.examples.on_policy.replicas import ELASTIC, STEADY, Plan, Replicas
from tutelage.examples.on_policy.sizes import SIZES

QUICK = SIZES["quick"]
#: A second replica comes early, and the first one dies.
KILLED = Plan(starts=(0.0, 0.25), kills=(0.5,))
SCORES = ("cross_entropy", "kl", "acceptance", "own_reverse_kl", "tokens")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums of several threads may differ in their last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


@pytest.mark.kafka
# Each replica imports torch and transformers, which takes a minute where cores are busy.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("variant", variants.ALL[2:3], ids=lambda each: each.lesson)
def test_a_killed_replica_changes_no_bit_of_what_is_learned(
    variant: variants.Variant,
    kafka: dict[str, Any],
    topic_name: Callable[[str], str],
    tmp_path: Path,
) -> None:
    lines: list[str] = []
    topics = topic_name("killed")

    def experiment(folder: str, **changes: Any) -> Experiment:
        options: dict[str, Any] = {
            "size": QUICK,
            "seeds": 2,
            "folder": tmp_path / folder,
            "load": tiny.load,
            "kafka": kafka,
            "only": (variant.name,),
            "say": lines.append,
        }
        return Experiment(**{**options, **changes})

    found = experiment("killed", plan=KILLED, topics=topics).run()
    assert f"{variant.name}: step 8 of 16: replica 1 is killed" in lines
    experiment("steady", plan=STEADY, topics=topic_name("steady")).run()
    killed, steady = rows_of(tmp_path / "killed"), rows_of(tmp_path / "steady")
    assert [(row["variant"], row["seed"]) for row in killed] == [
        (name, seed) for name in (variants.START, variant.name) for seed in range(2)
    ]
    for ours, theirs in zip(killed, steady, strict=True):
        assert [ours[name] for name in SCORES] == [theirs[name] for name in SCORES]
    assert killed[0]["kl"] != killed[2]["kl"], "the student has learned"

    # Every query has one answer, in its partition.
    (log,) = (tmp_path / "killed").glob("*.replica-1.txt")
    answers, _ = written(log.name.removesuffix(".replica-1.txt"), kafka)
    records = 2 * QUICK.text.steps * QUICK.text.batch_rows // QUICK.rows_per_query
    assert sorted(each for held in answers.values() for each in held if each >= 0) == list(
        range(records)
    )
    assert all(held == [*range(partition, records, 4), -1] for partition, held in answers.items())

    # A second run asks nobody.
    nowhere = {"bootstrap_servers": "localhost:1", "registry": "http://localhost:1"}
    assert experiment("killed", plan=KILLED, topics=topics, kafka=nowhere).run() == found
    assert (tmp_path / "killed" / "results.png").stat().st_size > 10_000
    with pytest.raises(ConfigurationError, match="has results of other settings"):
        experiment("killed", size=replace(QUICK, draws=21), kafka=nowhere).run()


def test_a_variant_that_is_not_there_and_a_text_that_is_too_short_are_refused(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"seeds": 1, "folder": tmp_path, "load": tiny.load, "kafka": {}}
    with pytest.raises(ConfigurationError, match="there is no variant 'off'"):
        Experiment(size=QUICK, only=("off",), **options).run()
    long = replace(QUICK, text=replace(QUICK.text, steps=1_000_000))
    with pytest.raises(ConfigurationError, match="give fewer --steps"):
        Experiment(size=long, **options).run()


def test_generation_draws_from_the_model_and_notes_what_it_found_probable() -> None:
    model, _ = tiny.load()
    prompts = torch.arange(3, 15).view(3, 4)

    def drawn(seed: int, *, draws: bool = False) -> generation.Continued:
        generator = torch.Generator().manual_seed(seed)
        return generation.continued(model, prompts, 8, generator, 5, draws=draws)

    found = drawn(0)
    assert torch.equal(found.ids[:, :4], prompts) and found.ids.shape == (3, 12)
    assert torch.equal(found.ids, drawn(0).ids) and not torch.equal(found.ids, drawn(1).ids)
    with torch.no_grad():
        logits = model(input_ids=found.ids).logits
    assert torch.equal(found.candidates[:, 3:-1], logits[:, 3:-1].topk(5).indices.int())
    assert not found.candidates[:, :3].any() and not found.candidates[:, -1].any()
    others = drawn(0, draws=True)
    assert torch.equal(others.ids, found.ids)
    wanted = logits.log_softmax(-1).gather(-1, others.candidates.long())
    torch.testing.assert_close(others.drawn[:, 3:-1], wanted[:, 3:-1])
    assert not others.drawn[:, :3].any() and not others.drawn[:, -1].any()


def test_drawn_tokens_have_the_model_s_distribution() -> None:
    model, _ = tiny.load()
    prompts = torch.arange(3, 7).expand(20_000, 4)
    found = generation.continued(model, prompts, 1, torch.Generator().manual_seed(0))
    counts = torch.bincount(found.ids[:, 4], minlength=len(tiny.Letters())) / len(prompts)
    with torch.no_grad():
        wanted = model(input_ids=prompts[:1]).logits[0, -1].softmax(-1)
    torch.testing.assert_close(counts, wanted, rtol=0, atol=0.02)


def test_the_rows_of_variants_differ_in_who_wrote_them_alone() -> None:
    model, tokenizer = tiny.load()
    windows = torch.randint(3, len(tokenizer), (4, 13), generator=torch.Generator().manual_seed(0))
    corpus, own, chosen, top = (
        each.rows(model, windows, QUICK, torch.Generator().manual_seed(1)) for each in variants.ALL
    )
    assert torch.equal(corpus["input_ids"], windows[:, :12].int())
    assert torch.equal(own["input_ids"], chosen["input_ids"])
    assert torch.equal(own["input_ids"], top["input_ids"])
    assert torch.equal(own["input_ids"][:, :4], corpus["input_ids"][:, :4])
    assert not torch.equal(own["input_ids"], corpus["input_ids"])
    for rows in (corpus, own, chosen, top):
        assert torch.equal(rows["loss_mask"], (torch.arange(12) >= 4).expand(4, 12))
    assert set(corpus) == set(own) == {"input_ids", "loss_mask"}
    assert chosen["candidates"].shape == chosen["drawn"].shape == (4, 12, QUICK.candidates)
    assert top["candidates"].shape == (4, 12, QUICK.candidates) and "drawn" not in top


def test_a_student_that_is_the_teacher_has_no_divergence_on_its_own_texts() -> None:
    model, _ = tiny.load()
    windows = torch.arange(3, 42).view(3, 13)
    assert measuring.own_reverse_kl(model, model, windows, QUICK) == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        other, _ = tiny.load()
        torch.nn.init.normal_(other.model.norm.weight)
    assert measuring.own_reverse_kl(other, model, windows, QUICK) > 0.1


def test_a_model_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    model, _ = tiny.load()
    # As `transformers` marks a model that it read from GGUF.
    model.config.quantization_config = {"quant_method": "gguf"}
    models.save(model, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again: PreTrainedModel = models.load(tmp_path / "model")
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert torch.equal(again(input_ids=ids).logits, model(input_ids=ids).logits)


def test_a_plan_starts_and_kills_at_its_shares_of_the_steps() -> None:
    turns = {step: ELASTIC.at(step, 16) for step in range(17)}
    assert {step: turn for step, turn in turns.items() if turn != (0, 0)} == {
        0: (1, 0),
        4: (1, 0),
        8: (0, 1),
        12: (1, 0),
    }
    assert STEADY.at(0, 2) == (1, 0)


def test_a_replica_that_fails_ends_the_run_with_what_it_said(tmp_path: Path) -> None:
    with Replicas(
        topic="topic",
        lesson="sampled",
        flags=("--max-rows", "none"),
        kafka={"bootstrap_servers": "localhost:1", "registry": "http://localhost:1"},
        folder=tmp_path,
        plan=STEADY,
        say=lambda line: None,
    ) as replicas:
        batches = replicas.follow(iter([{}, {}]), 2)
        next(batches)
        replicas.started[0].wait(60)
        with pytest.raises(
            ConfigurationError, match="replica 1 of topic ended with code 2: .*integer"
        ):
            next(batches)


def test_students_of_one_seed_are_compared_in_pairs() -> None:
    def rows(variant: str, kls: dict[int, float]) -> list[report.Row]:
        return [
            report.Row(
                variant=variant,
                seed=seed,
                settings="",
                tokens=1,
                cross_entropy=2.0,
                kl=kl,
                acceptance=0.5,
                own_reverse_kl=3.0,
            )
            for seed, kl in kls.items()
        ]

    on_policy = variants.ALL[1].name
    found = {
        on_policy: rows(on_policy, {1: 5.5, 2: 9.5, 3: 100.0}),
        variants.OFF_POLICY: rows(variants.OFF_POLICY, {0: 1.0, 1: 5.0, 2: 9.0}),
    }
    assert list(report.ordered(found)) == [variants.OFF_POLICY, on_policy]
    assert f"| {on_policy} | +0.000 ± 0.000 | +0.500 ± 0.000 | +0.000 ± 0.000 |" in report.table(
        found
    )
    assert report.summary(found)[on_policy]["kl_in_pairs"] == {"mean": 0.5, "half": 0.0}


def test_the_addresses_come_together() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tutelage.examples.on_policy", "--registry", "http://localhost:1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ConfigurationError.exit_code
    assert "give --bootstrap-server and --registry together" in done.stderr
