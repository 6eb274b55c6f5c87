"""The Trainer of transformers trains on a student's batches: the loss, the masks, the settings."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import tiny_models
from support.trainer_program import student_of, texts, write
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tutelage import (
    ConfigurationError,
    FileSink,
    FileSource,
    MemorySink,
    MemorySource,
    MemoryTopic,
    RaggedFormat,
    RunMismatch,
    Sampled,
    Shuffle,
    Student,
    Teacher,
    TopK,
    losses,
)
from tutelage.integrations.tokenizer_fingerprint import tokenizer_fingerprint
from tutelage.integrations.trainer import KnowledgeTrainer, KnowledgeTrainerMixin
from tutelage.integrations.trainer_passes import passes
from tutelage.integrations.training_batch import TrainingBatch, without_rows
from tutelage.integrations.transformers import CausalLMTeacher

ROWS = 10


def arguments(folder: Path, **changes: Any) -> TrainingArguments:
    """Settings for one step, logged."""
    return TrainingArguments(
        str(folder),
        **{
            "per_device_train_batch_size": ROWS,
            "max_steps": 1,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "learning_rate": 0.01,
            **changes,
        },
    )


def logged(trainer: Trainer, name: str = "loss") -> list[float]:
    """What a trainer logged of each step."""
    return [line[name] for line in trainer.state.log_history if name in line]


def trained(
    student: Student, folder: Path, model: PreTrainedModel | None = None, **options: Any
) -> KnowledgeTrainer:
    """A trainer that has trained on a student."""
    settings = options.pop("settings", {})
    with student:
        trainer = KnowledgeTrainer(
            model or tiny_models.llama(), arguments(folder, **settings), student=student, **options
        )
        trainer.train()
    return trainer


@torch.no_grad()
def divergence(student: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> list[float]:
    """KL(teacher || student) of each token of some texts, each text alone."""
    teacher, found = tiny_models.granite(), []
    for batch in batches:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            text = ids[mask != 0][None]
            ours, theirs = student(text).logits[0], teacher(text).logits[0]
            found += losses.forward_kl(ours, theirs, reduction="none").tolist()
    return found


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
@pytest.mark.parametrize(
    "make", [tiny_models.llama, tiny_models.gpt2], ids=lambda make: make.__name__
)
def test_the_loss_is_the_mean_over_the_tokens_of_a_step_however_it_is_padded_and_divided(
    tmp_path: Path, make: Any, left: bool
) -> None:
    write(tmp_path / "k.avro", ROWS, wire="float32")
    expected = divergence(make(), texts(ROWS))
    for share, accumulated in ((ROWS, 1), (3, 4)):
        student = student_of(tmp_path / "k.avro", ragged_format=RaggedFormat(pad_left=left))
        model = make()
        # Dropout would make each forward another; GPT-2 has it.
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer = trained(
            student,
            tmp_path,
            model,
            settings={
                "per_device_train_batch_size": share,
                "gradient_accumulation_steps": accumulated,
            },
        )
        assert logged(trainer) == [pytest.approx(sum(expected) / len(expected), rel=1e-4)]


@pytest.mark.parametrize("wire", [Sampled(20), TopK(5), "float32"], ids=str)
def test_each_encoding_is_learned_from(tmp_path: Path, wire: Any) -> None:
    write(tmp_path / "k.avro", ROWS, passes=2, wire=wire)
    trainer = trained(
        student_of(tmp_path / "k.avro"),
        tmp_path,
        settings={"max_steps": 30, "per_device_train_batch_size": 4},
    )
    found = logged(trainer)
    assert len(found) == 30 and sum(found[-6:]) < 0.7 * sum(found[:6])


def test_other_losses_and_temperatures_are_the_users_choice(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS, wire="float32")

    def loss(student: torch.Tensor, target: torch.Tensor, **options: Any) -> torch.Tensor:
        assert options["reduction"] == "sum" and options["temperature"] == 3.0
        return losses.jsd(student, target, beta=0.3, **options)

    for given in (losses.reverse_kl, loss):
        trainer = trained(student_of(tmp_path / "k.avro"), tmp_path, loss=given, temperature=3.0)
        assert logged(trainer)[0] > 0


def test_a_mask_of_the_teacher_and_labels_are_mixed_in(tmp_path: Path) -> None:
    inputs = texts(ROWS)
    for batch in inputs:
        # The second half of each text is what is to be learned.
        lengths = batch["attention_mask"].sum(1, keepdim=True)
        places = torch.arange(8)
        batch["loss_mask"] = ((places >= lengths // 2) & (places < lengths)).long()
    with Teacher(FileSink(tmp_path / "k.avro"), rows_per_record=2) as teacher:
        teacher.serve(CausalLMTeacher(tiny_models.granite()), inputs)
    ours, theirs = tiny_models.llama(), tiny_models.granite()
    kls, entropies = [], []
    for batch in inputs:
        for ids, mask, wanted in zip(
            batch["input_ids"], batch["attention_mask"], batch["loss_mask"], strict=True
        ):
            text = ids[mask != 0][None]
            before = wanted[mask != 0][1:] != 0
            with torch.no_grad():
                logits = ours(text).logits[0, :-1][before]
                target = theirs(text).logits[0, :-1][before]
            if len(logits):
                kls += losses.forward_kl(logits, target, reduction="none").tolist()
                entropies += torch.nn.functional.cross_entropy(
                    logits, text[0, 1:][before], reduction="none"
                ).tolist()
    for alpha in (1.0, 0.25, 0.0):
        trainer = trained(student_of(tmp_path / "k.avro"), tmp_path / "out", alpha=alpha)
        expected = alpha * sum(kls) / len(kls) + (1 - alpha) * sum(entropies) / len(entropies)
        assert logged(trainer) == [pytest.approx(expected, rel=1e-4)]


def test_texts_that_share_a_row_do_not_see_each_other(tmp_path: Path) -> None:
    lengths = (5, 3, 4)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, tiny_models.VOCABULARY, (2, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths])[None].expand(2, -1)
    with Teacher(FileSink(tmp_path / "k.avro")) as teacher:
        teacher.serve(
            CausalLMTeacher(tiny_models.granite()), [{"input_ids": ids, "position_ids": positions}]
        )
    alone = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)}
        for part in ids.split(lengths, dim=1)
    ]
    expected = divergence(tiny_models.llama(), alone)
    trainer = trained(student_of(tmp_path / "k.avro"), tmp_path / "out")
    assert logged(trainer) == [pytest.approx(sum(expected) / len(expected), rel=1e-4)]
    # With a mask beside the positions, transformers would not tell the texts apart.
    with (
        Teacher(FileSink(tmp_path / "masked.avro"), wire={"logits": "float32"}) as teacher,
        student_of(tmp_path / "k.avro") as student,
    ):
        (batch,) = student.knowledge(2)
        teacher.write({**batch, "attention_mask": torch.ones_like(batch["input_ids"])})
    trainer = trained(student_of(tmp_path / "masked.avro"), tmp_path / "out")
    assert logged(trainer) == [pytest.approx(sum(expected) / len(expected), rel=1e-4)]
    with pytest.raises(ConfigurationError, match=r"FalconH1.* see what is before it .* position 5"):
        trained(student_of(tmp_path / "k.avro"), tmp_path / "out", tiny_models.falcon_h1())


def test_a_batch_without_its_tokens_is_refused_with_what_it_has() -> None:
    flat = {"logits": torch.zeros(5, 4), "input_ids": torch.zeros(5)}
    with pytest.raises(ConfigurationError, match=re.escape("padded ones [rows, T]")):
        TrainingBatch(flat, key="logits", mask_key="kept", pad_left=False)
    with pytest.raises(ConfigurationError, match="no key 'other', only"):
        TrainingBatch(flat, key="other", mask_key="kept", pad_left=False)
    with pytest.raises(ConfigurationError, match="has neither labels nor tokens"):
        _ = TrainingBatch(
            {"logits": torch.zeros(5, 4)}, key="logits", mask_key="kept", pad_left=False
        ).labels


def test_a_mask_is_left_out_only_where_rows_hold_several_texts() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
    names = ["input_ids", "attention_mask", "position_ids", "use_cache"]
    one, two = torch.arange(4).expand(2, -1), torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    for positions, packed in ((one, False), (two, True)):
        batch = {
            "logits": torch.zeros(2, 4, 10),
            "input_ids": ids,
            "attention_mask": (ids > 0).long(),
            "position_ids": positions.int(),
        }
        read = TrainingBatch(batch, key="logits", mask_key="kept", pad_left=False)
        given = read.model_inputs(names)
        assert read.is_packed == packed
        assert ("attention_mask" in given) != packed
        assert ("use_cache" in given) == packed
        assert given["position_ids"].dtype == torch.int64
        assert given["position_ids"][0].tolist() == positions[0].tolist()


def test_a_row_without_loss_is_masked_in_the_shape_of_its_logits() -> None:
    tokens = {"input_ids": torch.zeros(1, 5, dtype=torch.int32)}
    for logits, shape in ((torch.zeros(1, 3), (1,)), (torch.zeros(1, 5, 3), (1, 5))):
        batch = {**tokens, "logits": logits}
        without_rows(batch, key="logits", mask_key="kept")
        assert batch["kept"].shape == shape and not batch["kept"].any()


def test_labels_are_those_of_the_next_token_where_it_is_real_kept_and_of_the_same_text() -> None:
    tokens = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])

    def labels(**more: torch.Tensor) -> list[list[int]]:
        batch = {"logits": torch.zeros(2, 4, 10), "input_ids": tokens, **more}
        read = TrainingBatch(batch, key="logits", mask_key="kept", pad_left=False)
        assert read.counts(labelled=True)[1] == (read.labels != -100).sum()
        return read.labels.tolist()

    none = -100
    assert labels() == [[6, 7, 8, none], [4, 0, 0, none]]
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    real = [[6, 7, 8, none], [4, none, none, none]]
    assert labels(attention_mask=mask) == real
    assert labels(**{"input_ids.lengths": torch.tensor([4, 2])}) == real
    kept = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])
    assert labels(kept=kept) == [[none, 7, 8, none], [4, none, none, none]]
    positions = torch.tensor([[0, 1, 0, 1], [0, 1, 2, 3]])
    assert labels(position_ids=positions) == [[6, none, 8, none], [4, 0, 0, none]]
    own = torch.tensor([[-100, -100, 7, 8], [9, 4, -100, -100]])
    assert labels(labels=own) == [[none, 7, 8, none], [4, none, none, none]]
    # The tokens came without padding, and the labels with it: on which side is not known.
    with pytest.raises(ConfigurationError, match="a label would be that of another token"):
        labels(labels=own, **{"input_ids.lengths": torch.tensor([4, 2])})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("compute_loss_func", {"compute_loss_func": lambda *given, **more: None}),
        ("label_smoothing_factor", {"args": {"label_smoothing_factor": 0.1}}),
        ("output_router_logits", {"config": {"output_router_logits": True}}),
    ],
)
def test_settings_of_another_loss_are_refused(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    model = tiny_models.llama()
    for setting, value in options.pop("config", {}).items():
        setattr(model.config, setting, value)
    args = TrainingArguments(
        str(tmp_path), max_steps=1, report_to="none", **options.pop("args", {})
    )
    write(tmp_path / "k.avro", 4)
    with (
        student_of(tmp_path / "k.avro") as student,
        pytest.raises(ConfigurationError, match=f"{name} is set, and would have no effect"),
    ):
        KnowledgeTrainer(model, args, student=student, **options)


@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_rows_behind_the_tokens_of_a_students_head_are_cut_off(
    tmp_path: Path, alpha: float
) -> None:
    write(tmp_path / "k.avro", ROWS, wire="float32")
    model, padded = tiny_models.llama(), tiny_models.llama()
    padded.resize_token_embeddings(tiny_models.VOCABULARY + 14, mean_resizing=False)
    with torch.no_grad():
        padded.get_output_embeddings().weight[tiny_models.VOCABULARY :] = 9.0
    plain = trained(student_of(tmp_path / "k.avro"), tmp_path, model, alpha=alpha)
    with pytest.raises(ConfigurationError, match=re.escape("KnowledgeTrainer(vocabulary=50)")):
        trained(student_of(tmp_path / "k.avro"), tmp_path, padded)
    cut = trained(student_of(tmp_path / "k.avro"), tmp_path, padded, alpha=alpha, vocabulary=50)
    assert logged(cut) == pytest.approx(logged(plain), rel=1e-5)


def test_logits_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    mine, other = tiny_models.tokenizer("a", "b"), tiny_models.tokenizer("b", "a")
    print_of = tokenizer_fingerprint(mine)
    write(tmp_path / "named.avro", ROWS, wire=Sampled(10, tokenizer=print_of))
    write(tmp_path / "unnamed.avro", ROWS, wire=Sampled(10))
    mine.pad_token = "b"  # The tokens stay the same.
    with_image_processor = SimpleNamespace(tokenizer=other)
    longer = tiny_models.tokenizer("a", "b")
    longer.add_tokens(["[added]"])
    assert tokenizer_fingerprint(longer, len(mine)) == print_of != tokenizer_fingerprint(longer)
    for file, options, said in (
        ("named", {"processing_class": mine}, None),
        ("named", {"tokenizer": print_of, "processing_class": other}, None),
        ("named", {}, None),
        ("unnamed", {"processing_class": other}, None),
        ("named", {"processing_class": other}, "the same id may mean another token"),
        ("named", {"processing_class": with_image_processor}, "may mean another token"),
        ("named", {"tokenizer": "ab"}, "the same id may mean another token"),
        ("unnamed", {"tokenizer": print_of}, "the target names no tokenizer"),
        # Of tokens that are added behind the others, the teacher knows nothing.
        ("named", {"processing_class": longer}, "may mean another token"),
        ("named", {"processing_class": longer, "vocabulary": len(mine)}, None),
    ):
        student = student_of(tmp_path / f"{file}.avro")
        if said is None:
            trained(student, tmp_path, **options)
        else:
            with pytest.raises(ConfigurationError, match=said):
                trained(student, tmp_path, **options)


def test_a_tokenizer_that_only_some_of_the_merged_teachers_named_is_compared(
    tmp_path: Path,
) -> None:
    mine, other = tiny_models.tokenizer("a", "b"), tiny_models.tokenizer("b", "a")
    write(tmp_path / "named.avro", ROWS, wire=Sampled(10, tokenizer=tokenizer_fingerprint(mine)))
    write(tmp_path / "unnamed.avro", ROWS, wire=Sampled(10))
    for tokenizer in (mine, other):
        student = Student({"logits": "mean", "input_ids": "same"})
        for name in ("named", "unnamed"):
            student.register_teacher(FileSource(tmp_path / f"{name}.avro"))
        if tokenizer is mine:
            trained(student, tmp_path, processing_class=tokenizer)
        else:
            with pytest.raises(ConfigurationError, match="may mean another token"):
                trained(student, tmp_path, processing_class=tokenizer)


def test_labels_that_a_teacher_carries_lie_as_its_tokens_do(tmp_path: Path) -> None:
    ids = torch.tensor([[1, 2, 3, 4, 5, 6], [0, 0, 7, 8, 9, 10]])
    mask = (ids > 0).long()
    labels = torch.where(torch.arange(6) > 2, ids, -100)
    teacher_model = CausalLMTeacher(tiny_models.llama(), carry=["labels"])
    with Teacher(FileSink(tmp_path / "k.avro")) as teacher:
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        teacher.serve(teacher_model, [batch])
    student = Student()
    student.register_teacher(FileSource(tmp_path / "k.avro"))
    with student:
        (given,) = student.knowledge(2)
    read = TrainingBatch(given, key="logits", mask_key="kept", pad_left=False)
    none = -100
    assert given["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 0, 0]]
    assert read.labels.tolist() == [[none, none, 4, 5, 6, none], [8, 9, 10, none, none, none]]


class Classifier(torch.nn.Module):
    """A model that is no language model."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> Any:
        return type("Output", (), {"logits": self.layer(x)})()


def test_models_other_than_of_language_learn_too(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(ROWS, 3, generator=generator), torch.arange(ROWS) % 4
    with Teacher(FileSink(tmp_path / "k.avro")) as teacher:
        teacher.write({"x": x, "logits": x @ torch.randn(3, 4), "labels": y, "id": y})
    model = Classifier()
    with torch.no_grad():
        logits = model(x).logits
    student = student_of(tmp_path / "k.avro")
    trainer = trained(student, tmp_path / "out", model, alpha=0.0)  # type: ignore[arg-type]
    expected = float(torch.nn.functional.cross_entropy(logits, y))
    assert logged(trainer) == [pytest.approx(expected, rel=1e-5)]


def bert(kind: type[PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(5)
    sizes: Any = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_labels": 4,
    }
    config = BertConfig(
        vocab_size=tiny_models.VOCABULARY, intermediate_size=24, **sizes,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return kind(config)


@pytest.mark.parametrize("kind", [BertForTokenClassification, BertForSequenceClassification])
def test_classifiers_of_tokens_and_of_texts_learn_the_labels_that_transformers_would_have_them_learn(
    tmp_path: Path, kind: type[PreTrainedModel]
) -> None:
    model = bert(kind)
    ids = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]])
    mask = (ids > 0).long()
    labels = torch.tensor([1, 3])
    if kind is BertForTokenClassification:
        labels = torch.tensor([[0, 1, 2, 3], [3, 2, -100, -100]])
    with torch.no_grad():
        own = model(input_ids=ids, attention_mask=mask, labels=labels)
    with Teacher(FileSink(tmp_path / "k.avro")) as teacher:
        teacher.write(
            {"input_ids": ids, "attention_mask": mask, "labels": labels, "logits": own.logits + 1}
        )
    trainer = trained(student_of(tmp_path / "k.avro"), tmp_path / "out", model, alpha=0.0)
    assert logged(trainer) == [pytest.approx(float(own.loss), rel=1e-5)]
    if kind is BertForTokenClassification:
        with Teacher(FileSink(tmp_path / "unlabelled.avro")) as teacher:
            teacher.write({"input_ids": ids, "logits": own.logits})
        with pytest.raises(ConfigurationError, match="nor tokens that this model predicts"):
            trained(student_of(tmp_path / "unlabelled.avro"), tmp_path, bert(kind), alpha=0.5)


class Epochs(TrainerCallback):
    """Notes at which steps epochs end."""

    def __init__(self) -> None:
        self.ended: list[tuple[int, float]] = []

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended.append((state.global_step, round(state.epoch, 3)))


@pytest.mark.parametrize("rows", [None, ROWS], ids=["of the file", "given"])
def test_with_its_rows_known_a_pass_is_an_epoch(tmp_path: Path, rows: int | None) -> None:
    write(tmp_path / "k.avro", ROWS)
    epochs = Epochs()
    trainer = trained(
        student_of(tmp_path / "k.avro"),
        tmp_path / "out",
        rows=rows,
        callbacks=[epochs],
        settings={
            "max_steps": -1,
            "num_train_epochs": 3,
            "per_device_train_batch_size": 4,
            "save_strategy": "epoch",
        },
    )
    assert trainer.state.global_step == 9
    assert epochs.ended == [(3, 1.0), (6, 2.0), (9, 3.0)]
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "checkpoint-3",
        "checkpoint-6",
        "checkpoint-9",
    ]
    assert all((each / "tutelage.json").exists() for each in (tmp_path / "out").iterdir())


def test_each_pass_is_shuffled_anew_and_the_same_in_each_run(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS, passes=2)
    found = []
    for shuffle in (Shuffle(seed=4), Shuffle(seed=4), None):
        with student_of(tmp_path / "k.avro") as student:
            batches = passes(
                student,
                batch_size=ROWS,
                drop_last=False,
                shuffle=shuffle,
                pass_batches=None,
                key="logits",
                mask_key="kept",
            )
            found.append([next(batches)["input_ids"].tolist() for _ in range(6)])
            batches.close()
    first, again, plain = found
    assert first == again and len({str(order) for order in first}) == 6
    assert plain == [plain[0]] * 6
    assert all(sorted(order) == sorted(plain[0]) for order in first)


def test_a_pass_of_other_rows_than_were_given_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS)
    with pytest.raises(ConfigurationError, match="a pass has 3 batches, and 5 by the number of"):
        trained(
            student_of(tmp_path / "k.avro"),
            tmp_path / "out",
            rows=20,
            settings={"max_steps": 9, "per_device_train_batch_size": 4},
        )


def test_a_run_that_is_finished_and_resumed_does_nothing(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS)
    settings = {"max_steps": 4, "per_device_train_batch_size": 4, "save_strategy": "steps"}
    trained(
        student_of(tmp_path / "k.avro"), tmp_path / "out", settings={**settings, "save_steps": 2}
    )
    with student_of(tmp_path / "k.avro") as student:
        trainer = KnowledgeTrainer(
            tiny_models.llama(), arguments(tmp_path / "out", **settings), student=student
        )
        trainer.train(resume_from_checkpoint=True)
        assert trainer.state.global_step == 4
        longer = KnowledgeTrainer(
            tiny_models.llama(),
            arguments(tmp_path / "out", **{**settings, "max_steps": 6}),
            student=student,
        )
        longer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
        assert longer.state.global_step == 6
        other = KnowledgeTrainer(
            tiny_models.llama(),
            arguments(tmp_path / "out", **{**settings, "per_device_train_batch_size": 2}),
            student=student,
        )
        with pytest.raises(RunMismatch, match="batch_size was 4, is 2"):
            other.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


def test_without_a_whole_checkpoint_nothing_is_resumed(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS)
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    with student_of(tmp_path / "k.avro") as student:
        trainer = KnowledgeTrainer(
            tiny_models.llama(), arguments(tmp_path / "out"), student=student
        )
        with pytest.raises(ConfigurationError, match="has no whole checkpoint"):
            trainer.train(resume_from_checkpoint=True)
        with pytest.raises(ConfigurationError, match=re.escape("tutelage.json")):
            trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))


def test_evaluation_is_the_trainers_own(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS)
    held_out = [{"input_ids": [3, 4, 5, 6], "labels": [3, 4, 5, 6]}] * 4
    model = tiny_models.llama()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        expected = float(model(ids, labels=ids).loss)
    with student_of(tmp_path / "k.avro") as student:
        trainer = KnowledgeTrainer(
            model, arguments(tmp_path / "out"), student=student, eval_dataset=held_out
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)
        trainer.train()
        assert math.isfinite(trainer.evaluate()["eval_loss"])


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"max_steps": -1}, {}, "how long to train is not known: set max_steps"),
        ({"save_strategy": "epoch"}, {}, 'save_strategy is "epoch", and when a pass ends is not'),
        ({"auto_find_batch_size": True}, {}, "auto_find_batch_size begins again"),
        ({}, {"train_dataset": [1]}, "train_dataset is not used"),
        ({}, {"alpha": 1.5}, "alpha is 1.5; it must be from 0 to 1"),
        ({}, {"rows": 0}, "rows is 0"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_right_is_refused(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    topic = MemoryTopic(name="under-way")
    student = Student()
    student.register_teacher(MemorySource(topic))
    with Teacher(MemorySink(topic), rows_per_record=1) as teacher, student:
        teacher.write({"logits": torch.zeros(1, 3)})
        with pytest.raises(ConfigurationError, match=re.escape(said)):
            KnowledgeTrainer(
                tiny_models.llama(), arguments(tmp_path, **settings), student=student, **options
            )


def test_a_student_of_other_ranks_than_the_trainers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=re.escape('Student(shard="auto")')):
        KnowledgeTrainer(
            tiny_models.llama(),
            arguments(tmp_path),
            student=student_of(tmp_path / "k.avro", shard=(0, 2)),
        )


def test_a_student_that_is_not_started_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "k.avro", ROWS)
    student = student_of(tmp_path / "k.avro")
    with pytest.raises(ConfigurationError, match="not started"):
        KnowledgeTrainer(tiny_models.llama(), arguments(tmp_path / "out"), student=student)


def test_the_mixin_fits_a_trainer_of_ones_own(tmp_path: Path) -> None:
    class Own(KnowledgeTrainerMixin, Trainer):
        loss_is_scaled_for_ga = False

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            assert set(inputs) == {"input_ids", "input_ids.lengths", "logits", "logits.lengths"}
            return 0.0 * model(input_ids=inputs["input_ids"]).logits.sum() + 2.0

    write(tmp_path / "k.avro", ROWS)
    with student_of(tmp_path / "k.avro") as student:
        trainer = Own(tiny_models.llama(), arguments(tmp_path / "out"), student=student)
        trainer.train()
    assert logged(trainer) == [2.0]
