"""TRL's GKDTrainer trains on stored logits as it does with the teacher model itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from support import gkd_program, tiny_models
from support.gkd_program import (
    chats,
    collator,
    settings,
    teacher_model,
    tokenizer,
    trained,
    written,
)
from trl.experimental.gkd import GKDTrainer

from tutelage import (
    ConfigurationError,
    CorruptData,
    FileSink,
    Int8,
    KnowledgeFile,
    KnowledgeFiles,
    Sampled,
    Teacher,
    TopK,
    losses,
)
from tutelage.integrations.gkd import KnowledgeGKDTrainer, StoredTeacher
from tutelage.integrations.transformers import CausalLMTeacher

VOCABULARY = tiny_models.VOCABULARY
TESTS = Path(gkd_program.__file__).parents[1]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def batch_of(**options: Any) -> dict[str, torch.Tensor]:
    """The chats as TRL's collator pads them, on the left, or padded on the right."""
    right = options.pop("right", False)
    batch = collator(**options)(chats())
    made = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    if right:
        order = batch["attention_mask"].argsort(dim=1, descending=True, stable=True)
        made = {name: value.gather(1, order) for name, value in made.items()}
    return made


def inputs_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def assert_same_training(found: Any, wanted: Any, tolerance: float = 1e-4) -> None:
    """Check losses and weights, which training has changed by more than the tolerance."""
    untrained = torch.cat([each.flatten() for each in tiny_models.llama().parameters()])
    assert (wanted[1] - untrained).abs().max() > 50 * tolerance
    assert len(wanted[0]) == 4 and len(set(wanted[0])) == 4
    assert found[0] == pytest.approx(wanted[0], rel=tolerance, abs=tolerance)
    torch.testing.assert_close(found[1], wanted[1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_training_is_that_with_the_model_itself(tmp_path: Path, beta: float) -> None:
    args = settings(tmp_path, beta=beta)
    wanted = trained(teacher_model(), args)
    with KnowledgeFile(written(tmp_path / "all.avro")) as file:
        assert_same_training(trained(StoredTeacher(file, args), args), wanted)


def test_half_precision_is_near(tmp_path: Path) -> None:
    args = settings(tmp_path)
    wanted = trained(teacher_model(), args)
    with KnowledgeFile(written(tmp_path / "half.avro", wire="float16")) as file:
        assert_same_training(trained(StoredTeacher(file, args), args), wanted, tolerance=2e-3)


def test_of_answers_alone_the_logits_of_answers_are_enough(tmp_path: Path) -> None:
    args = settings(tmp_path, beta=1.0)
    wanted = trained(teacher_model(), args)
    with KnowledgeFile(written(tmp_path / "answers.avro", answers=True)) as file:
        teacher = StoredTeacher(file, args)
        assert_same_training(trained(teacher, args, KnowledgeGKDTrainer), wanted)
        with pytest.raises(ConfigurationError, match="does not say whether it counts"):
            trained(teacher, args)


def test_labels_may_count_only_what_the_teacher_sent(tmp_path: Path) -> None:
    batch = batch_of()
    args = settings(tmp_path)
    with KnowledgeFile(written(tmp_path / "answers.avro", answers=True)) as file:
        teacher = StoredTeacher(file, args)
        # The position before the first label of row 3 is not among those of the answer.
        first = int((batch["labels"][3] != -100).nonzero()[0])
        batch["labels"][3, first - 1] = 7
        teacher.count(batch["labels"])
        with pytest.raises(ConfigurationError, match=f"count position {first - 2} in row 3"):
            teacher(**inputs_of(batch))


@pytest.mark.parametrize("right", [False, True], ids=["left", "right"])
def test_padding_on_either_side_leaves_the_logits_as_they_are(tmp_path: Path, right: bool) -> None:
    batch = batch_of(right=right)
    with KnowledgeFile(written(tmp_path / "all.avro")) as file, torch.no_grad():
        output = StoredTeacher(file, settings(tmp_path))(**inputs_of(batch))
        wanted = teacher_model()(**inputs_of(batch)).logits
    real = batch["attention_mask"] != 0
    assert not real.all() and output.logits.dtype == torch.float32
    torch.testing.assert_close(output.logits[real], wanted[real], rtol=1e-4, atol=1e-4)
    assert not output.logits[~real].any()


def test_texts_of_one_length_need_no_mask(tmp_path: Path) -> None:
    ids = torch.randint(3, VOCABULARY, (4, 6), generator=torch.Generator().manual_seed(1))
    path = tmp_path / "whole.avro"
    with Teacher(FileSink(path)) as teacher:
        teacher.serve(CausalLMTeacher(teacher_model()), [{"input_ids": ids}])
    with KnowledgeFile(path) as file, torch.no_grad():
        found = StoredTeacher(file, settings(tmp_path))(ids.flip(0)).logits
        torch.testing.assert_close(found, teacher_model()(ids.flip(0)).logits, rtol=1e-4, atol=1e-4)


def test_sampled_logits_are_the_logarithms_of_what_was_drawn(tmp_path: Path) -> None:
    batch = batch_of()
    with KnowledgeFile(written(tmp_path / "drawn.avro", wire=Sampled(40))) as file:
        logits = StoredTeacher(file, settings(tmp_path))(**inputs_of(batch)).logits
        wanted = file[:]["logits"].dense()
    real = batch["attention_mask"] != 0
    found = logits[real].softmax(-1)
    torch.testing.assert_close(found, wanted)
    assert torch.equal(found == 0, wanted == 0)


def test_the_gradient_of_sampled_logits_is_that_of_forward_kl(tmp_path: Path) -> None:
    batch = batch_of()
    counted = torch.nn.functional.pad(batch["labels"][:, 1:] != -100, (0, 1))
    path = written(tmp_path / "drawn.avro", answers=True, wire=Sampled(40))
    with KnowledgeFile(path) as file:
        teacher = StoredTeacher(file, settings(tmp_path))
        teacher.count(batch["labels"])
        logits = teacher(**inputs_of(batch)).logits
        target = file[:]["logits"]
    student = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    mine, ours = student.clone().requires_grad_(), student.clone().requires_grad_()
    labels = batch["labels"][:, 1:]
    loss = GKDTrainer.generalized_jsd_loss(mine[:, :-1], logits[:, :-1], labels, beta=0.0)
    loss.backward()
    wanted = losses.forward_kl(ours, target, mask=counted)
    wanted.backward()
    assert mine.grad is not None and mine.grad.abs().max() > 1e-3
    torch.testing.assert_close(mine.grad, ours.grad, rtol=1e-4, atol=1e-7)
    # The values differ by the difference of the entropies.
    drawn = torch.distributions.Categorical(logits=logits[counted]).entropy().mean()
    difference = float(target.entropy.mean() - drawn)
    assert difference > 0.01
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()) + difference, rel=1e-4)


def test_several_files_and_merged_teachers_do_as_well(tmp_path: Path) -> None:
    batch, args, rows = batch_of(), settings(tmp_path), chats()
    parts = [
        written(tmp_path / "first.avro", rows=rows[:5]),
        written(tmp_path / "second.avro", rows=rows[5:]),
    ]
    with KnowledgeFiles(parts) as files, torch.no_grad():
        found = StoredTeacher(files, args)(**inputs_of(batch)).logits
        wanted = teacher_model()(**inputs_of(batch)).logits
    real = batch["attention_mask"] != 0
    torch.testing.assert_close(found[real], wanted[real], rtol=1e-4, atol=1e-4)

    drawn = [written(tmp_path / f"drawn{n}.avro", wire=Sampled(10 * n)) for n in (1, 2)]
    merge: Any = {"logits": "mean", "input_ids": "first"}
    with KnowledgeFiles.merged(drawn, merge=merge) as files:
        found = StoredTeacher(files, args)(**inputs_of(batch)).logits
        torch.testing.assert_close(found[real].softmax(-1), files[:]["logits"].dense())


def test_evaluation_is_that_with_the_model_itself(tmp_path: Path) -> None:
    args = settings(tmp_path)
    known, foreign = Dataset.from_list(chats(5)), Dataset.from_list(chats(4, seed=4))
    data: Any = {"train_dataset": known, "processing_class": tokenizer()}
    model = GKDTrainer(tiny_models.llama(), teacher_model(), args, eval_dataset=known, **data)
    wanted = model.evaluate()["eval_loss"]
    with KnowledgeFile(written(tmp_path / "all.avro")) as file:
        teacher = StoredTeacher(file, args)
        stored = GKDTrainer(tiny_models.llama(), teacher, args, eval_dataset=known, **data)
        assert stored.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-4)
        with pytest.raises(ConfigurationError, match=r"row 0 of the batch, \[4, .* is no text of"):
            stored.evaluate(foreign)


def test_truncated_texts_are_the_teacher_s_only_if_it_truncated_alike(tmp_path: Path) -> None:
    assert batch_of()["input_ids"].shape[1] > 9
    batch = batch_of(max_length=9)
    args = settings(tmp_path)
    whole, short = written(tmp_path / "all.avro"), written(tmp_path / "cut.avro", max_length=9)
    with (
        KnowledgeFile(whole) as file,
        pytest.raises(ConfigurationError, match="chat template and max_length"),
    ):
        StoredTeacher(file, args)(**inputs_of(batch))
    with KnowledgeFile(short) as file, torch.no_grad():
        found = StoredTeacher(file, args)(**inputs_of(batch)).logits
    real = batch["attention_mask"] != 0
    wanted = teacher_model()(**inputs_of(batch)).logits[real]
    torch.testing.assert_close(found[real], wanted, rtol=1e-4, atol=1e-4)


# What TRL calls of transformers.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_texts_that_the_student_generates_are_refused(tmp_path: Path) -> None:
    args = settings(tmp_path)
    with KnowledgeFile(written(tmp_path / "all.avro")) as file:
        trainer = GKDTrainer(
            tiny_models.llama(),
            StoredTeacher(file, args),
            args,
            train_dataset=Dataset.from_list(chats()),
            processing_class=tokenizer(),
        )
        trainer.lmbda = 1.0
        with pytest.raises(ConfigurationError, match=r"generates \(lmbda above 0\) are in no file"):
            trainer.train()


def test_a_text_that_occurs_twice_has_one_knowledge_or_a_policy(tmp_path: Path) -> None:
    rows, args = chats(), settings(tmp_path)
    once = written(tmp_path / "once.avro")
    # The same knowledge again does no harm.
    with KnowledgeFiles([once, once]) as files:
        StoredTeacher(files, args)
    dense = written(tmp_path / "dense.avro", rows=[rows[0], rows[3]], changed=True)
    with KnowledgeFiles([once, dense]) as files:
        with pytest.raises(ConfigurationError, match=r"in rows 0 and 8, with different knowledge"):
            StoredTeacher(files, args)
        found = StoredTeacher(files, args, repeated="first")(**inputs_of(batch_of())).logits
    with KnowledgeFile(once) as file:
        assert torch.equal(found, StoredTeacher(file, args)(**inputs_of(batch_of())).logits)
    drawn = written(tmp_path / "drawn.avro", rows=[*rows, rows[1]], wire=Sampled(10))
    with KnowledgeFile(drawn) as file, pytest.raises(ConfigurationError, match="in rows 1 and 8"):
        StoredTeacher(file, args)


def test_ids_that_no_token_has_may_be_added(tmp_path: Path) -> None:
    batch, args = batch_of(), settings(tmp_path)
    with KnowledgeFile(written(tmp_path / "cut.avro", vocabulary=VOCABULARY - 7)) as file:
        with pytest.raises(
            ValueError, match="vocab_size 50 but the teacher model has vocab_size 43"
        ):
            trained(StoredTeacher(file, args), args)
        teacher = StoredTeacher(file, args, vocabulary=VOCABULARY)
        logged, _, _ = trained(teacher, args)
        assert all(0 < loss < 100 for loss in logged)
        with torch.no_grad():
            found = teacher(**inputs_of(batch)).logits.softmax(-1)
            wanted = teacher_model()(**inputs_of(batch)).logits[..., :-7].softmax(-1)
        real = batch["attention_mask"] != 0
        torch.testing.assert_close(found[real][:, :-7], wanted[real], rtol=1e-4, atol=1e-4)
        assert not found[real][:, -7:].any()
        with pytest.raises(ConfigurationError, match="vocabulary is 42, and 'logits' has 43 ids"):
            StoredTeacher(file, args, vocabulary=42)
        with pytest.raises(ConfigurationError, match="beta is 0.5. Anything but forward KL"):
            StoredTeacher(file, settings(tmp_path, beta=0.5), vocabulary=VOCABULARY)


@pytest.mark.parametrize(
    ("wire", "changes", "message"),
    [
        (None, {"lmbda": 0.5}, "lmbda is 0.5, so the student would train on texts"),
        (None, {"seq_kd": True}, "seq_kd=True has the teacher generate"),
        (Sampled(9), {"beta": 0.5}, "beta is 0.5. Anything but forward KL"),
        (Sampled(9), {"beta": 1.0}, "beta is 1. Anything but forward KL"),
        (Sampled(9, temperature=2.0), {}, "has temperature 2, and GKDTrainer compares"),
        (TopK(9), {}, "is topk:9.*teach the student to be surer than the teacher"),
    ],
)
def test_what_would_make_the_loss_wrong_is_refused(
    tmp_path: Path, wire: Any, changes: dict[str, Any], message: str
) -> None:
    with (
        KnowledgeFile(written(tmp_path / "file.avro", wire=wire)) as file,
        pytest.raises(ConfigurationError, match=message),
    ):
        StoredTeacher(file, settings(tmp_path, **changes))


def test_int8_logits_are_all_known(tmp_path: Path) -> None:
    batch = batch_of()
    with KnowledgeFile(written(tmp_path / "int8.avro", wire=Int8())) as file:
        found = StoredTeacher(file, settings(tmp_path, beta=1.0))(**inputs_of(batch)).logits
        real = batch["attention_mask"] != 0
        wanted = torch.cat([row["logits"] for row in file])
        assert torch.equal(found[real], wanted)


def test_deepspeed_is_refused(tmp_path: Path) -> None:
    args = settings(tmp_path)
    args.deepspeed_plugin = object()
    with (
        KnowledgeFile(written(tmp_path / "all.avro")) as file,
        pytest.raises(ConfigurationError, match="under DeepSpeed"),
    ):
        StoredTeacher(file, args)


def test_files_without_texts_or_their_logits_are_refused(tmp_path: Path) -> None:
    args, ids = settings(tmp_path), torch.arange(12).view(2, 6)
    logits = torch.randn(2, 6, VOCABULARY)

    def of(name: str, **knowledge: torch.Tensor) -> StoredTeacher:
        with Teacher(FileSink(tmp_path / name)) as teacher:
            teacher.write(knowledge)
        with KnowledgeFile(tmp_path / name) as file:
            return StoredTeacher(file, args)

    of("right.avro", input_ids=ids, logits=logits)
    with pytest.raises(ConfigurationError, match="has no 'input_ids', it has 'logits'"):
        of("texts.avro", logits=logits)
    with pytest.raises(ConfigurationError, match="has no 'logits', it has 'input_ids'"):
        of("logits.avro", input_ids=ids)
    with pytest.raises(ConfigurationError, match=r"must be floats \[T, vocabulary\] for each row"):
        of("flat.avro", input_ids=ids, logits=logits[:, 0])
    with pytest.raises(ConfigurationError, match="row 0 of .* holds several texts, packed"):
        of("packed.avro", input_ids=ids, logits=logits, position_ids=ids % 3)
    of("one.avro", input_ids=ids, logits=logits, position_ids=ids)
    with pytest.raises(ConfigurationError, match="a str; give a KnowledgeFile"):
        StoredTeacher("texts.avro", args)  # type: ignore[arg-type]


def test_logits_that_do_not_fit_their_text_are_errors(tmp_path: Path) -> None:
    args, ids = settings(tmp_path), torch.arange(12).view(2, 6)
    for name, logits, error, message in (
        ("few", torch.zeros(2, 5, VOCABULARY), ConfigurationError, "logits of 5 positions"),
        ("nan", torch.full((2, 6, VOCABULARY), torch.inf), CorruptData, "are not finite"),
    ):
        with Teacher(FileSink(tmp_path / name)) as teacher:
            teacher.write({"input_ids": ids, "logits": logits})
        with KnowledgeFile(tmp_path / name) as file, pytest.raises(error, match=message):
            StoredTeacher(file, args)(ids)


def test_mixed_precision_leaves_the_stored_logits_as_they_are(tmp_path: Path) -> None:
    args = settings(tmp_path, bf16=True)
    wanted = trained(teacher_model(), args)
    with KnowledgeFile(written(tmp_path / "all.avro")) as file:
        found = trained(StoredTeacher(file, args), args, KnowledgeGKDTrainer)
    assert found[0] == pytest.approx(wanted[0], rel=0.05)


def test_a_trainer_that_counts_wants_a_stored_teacher(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="teacher_model must be a StoredTeacher"):
        trained(teacher_model(), settings(tmp_path), KnowledgeGKDTrainer)


def test_two_ranks_learn_what_they_learn_from_the_model_itself(tmp_path: Path) -> None:
    path = written(tmp_path / "answers.avro", answers=True)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [sys.executable, *torchrun, gkd_program.__file__, str(path), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=500,
    )
    stored, model = json.loads((tmp_path / "result.json").read_text())
    found, wanted = ((each["logged"], torch.tensor(each["weights"])) for each in (stored, model))
    assert_same_training(found, wanted)
