"""Lightning trains on a student's batches: each once, whatever it fetched ahead, and wherever it was stopped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, OnExceptionCheckpoint
from support.lightning_program import (
    Model,
    Training,
    checkpoint_of,
    run,
    student_of,
    trainer_of,
    write,
)
from torch.utils.data import DataLoader

from tutelage import (
    ConfigurationError,
    FileSink,
    MemorySink,
    MemoryTopic,
    RunMismatch,
    Sampled,
    Shuffle,
    SparseTarget,
    Teacher,
)
from tutelage.integrations.lightning import KnowledgeDataModule

# 25 rows are 5 batches of 6, of which the last has one row. The second pass has other rows.
ROWS, SIZE, BATCHES = 25, 6, 5
PASSES = [
    [list(range(first, min(first + SIZE, ROWS + add))) for first in range(add, ROWS + add, SIZE)]
    for add in (0, 100)
]

pytestmark = [
    pytest.mark.timeout(280),
    # Lightning says what it thinks of this machine and of tiny trainings.
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:lightning"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the program has it: sums of several threads may differ in their last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two passes of 25 rows."""
    path = tmp_path_factory.mktemp("knowledge") / "knowledge.avro"
    write(FileSink(path), ROWS)
    return path


@pytest.fixture(scope="module")
def topic() -> MemoryTopic:
    """The same in a topic, of which the length of a pass is not known."""
    topic = MemoryTopic(name="knowledge", partitions=2)
    write(MemorySink(topic), ROWS)
    return topic


def ids_of(steps: list[list[Any]]) -> list[list[int]]:
    """The rows of each step."""
    return [ids for _, ids, _ in steps]


class Fitting:
    """A model, and a data module over a file, that are fitted in this process."""

    def __init__(
        self, source: Path | MemoryTopic, out: Path, model: LightningModule, **options: Any
    ) -> None:
        self.source, self.out, self.model = source, out, model
        self.options = {"weight_key": "weight", **options}
        self.data: Any = None

    def fit(self, *callbacks: Callback, kind: Any = KnowledgeDataModule, **options: Any) -> Any:
        """Fit; returns the trainer."""
        resume = options.pop("resume", None)
        with student_of(self.source) as student:
            self.data = kind(student, SIZE, **self.options)
            trainer = trainer_of(self.out, *callbacks, **{"max_epochs": 1, **options})
            trainer.fit(self.model, datamodule=self.data, ckpt_path=resume, weights_only=True)
        return trainer


def test_an_epoch_is_a_pass_and_behind_the_last_pass_comes_the_first(
    knowledge: Path, tmp_path: Path
) -> None:
    whole = run(Training(file=str(knowledge), out=str(tmp_path)))
    assert ids_of(whole["steps"]) == [*PASSES[0], *PASSES[1], *PASSES[0]]
    assert [epoch for epoch, _, _ in whole["steps"]] == [0] * 5 + [1] * 5 + [2] * 5


@pytest.mark.parametrize(("length_is_known", "accumulate"), [(True, 1), (True, 2), (False, 1)])
def test_from_each_checkpoint_the_same_steps_and_weights_follow_bit_for_bit(
    knowledge: Path, topic: MemoryTopic, tmp_path: Path, length_is_known: bool, accumulate: int
) -> None:
    training = Training(file=str(knowledge), out=str(tmp_path), accumulate=accumulate)
    source = None if length_is_known else topic
    whole = run(training, source)
    assert ids_of(whole["steps"]) == [*PASSES[0], *PASSES[1], *PASSES[0]]
    # Of 5 batches each second one ends a step of two, and the last one a step of one.
    before = range(1, 16) if accumulate == 1 else (2, 4, 5, 7, 9, 10, 12, 14, 15)
    for step, batches in enumerate(before, 1):
        found = run(replace(training, resume=step), source)
        assert found == {**whole, "steps": whole["steps"][batches:]}, step


def test_what_limit_train_batches_leaves_of_a_pass_is_the_next_epoch(
    knowledge: Path, tmp_path: Path
) -> None:
    training = Training(file=str(knowledge), out=str(tmp_path), limit=2, epochs=4)
    whole = run(training)
    one, two = PASSES
    assert ids_of(whole["steps"]) == [*one[:5], *two[:2]]
    assert [epoch for epoch, _, _ in whole["steps"]] == [0, 0, 1, 1, 2, 3, 3]
    for step in (1, 2, 3, 4, 6):
        assert run(replace(training, resume=step))["steps"] == whole["steps"][step:], step


def test_batches_of_validation_between_are_not_taken_for_the_student_s(
    knowledge: Path, tmp_path: Path
) -> None:
    class Validated(Model):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[int] = []

        def validation_step(self, batch: Any, index: int) -> None:
            self.seen.append(len(self.steps))

    class Validating(KnowledgeDataModule):
        def val_dataloader(self) -> Any:
            return DataLoader([torch.zeros(4), torch.ones(4)])  # type: ignore[arg-type]

    keep = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    model = Validated()
    fitting = Fitting(knowledge, tmp_path, model)
    fitting.fit(keep, kind=Validating, val_check_interval=0.4, num_sanity_val_steps=1)
    assert ids_of(model.steps) == PASSES[0]
    assert model.seen == [0, 2, 2, 4, 4]
    for step in range(1, 5):
        fitting.model = again = Validated()
        fitting.fit(kind=Validating, val_check_interval=0.4, resume=checkpoint_of(tmp_path, step))
        assert ids_of(again.steps) == PASSES[0][step:], step


class Stop(Callback):
    """Raises before or behind a batch's training."""

    def __init__(self, before: int = -1, behind: int = -1) -> None:
        self.before, self.behind = before, behind

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
        if index == self.before:
            raise InterruptedError

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == self.behind:
            raise InterruptedError


@pytest.mark.parametrize(
    ("stop", "done"),
    [(Stop(before=0), 0), (Stop(before=3), 3), (Stop(before=4), 4), (Stop(behind=2), 3)],
)
@pytest.mark.parametrize("length_is_known", [True, False])
def test_a_batch_that_an_exception_ended_is_trained_on_again_and_one_behind_it_is_not(
    knowledge: Path,
    topic: MemoryTopic,
    tmp_path: Path,
    length_is_known: bool,
    stop: Stop,
    done: int,
) -> None:
    fitting = Fitting(knowledge if length_is_known else topic, tmp_path, Model())
    with pytest.raises(InterruptedError):
        fitting.fit(OnExceptionCheckpoint(tmp_path, "stopped"), stop)
    fitting.model = model = Model()
    fitting.fit(resume=tmp_path / "stopped.ckpt")
    assert ids_of(model.steps) == PASSES[0][done:]


def test_a_checkpoint_written_before_the_first_batch_or_behind_the_fit_is_right_too(
    knowledge: Path, topic: MemoryTopic, tmp_path: Path
) -> None:
    class AtStart(Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "start.ckpt")

        def on_train_end(self, trainer: Any, module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    for source in (knowledge, topic):
        fitting = Fitting(source, tmp_path, Model())
        fitting.fit(AtStart())
        for name, passes in (("start", PASSES), ("end", PASSES[1:])):
            fitting.model = model = Model()
            fitting.fit(resume=tmp_path / f"{name}.ckpt", max_epochs=2)
            assert ids_of(model.steps) == [each for batches in passes for each in batches]


def test_a_student_s_state_of_its_own_is_where_training_begins(
    knowledge: Path, tmp_path: Path
) -> None:
    with student_of(knowledge) as student:
        batches = student.knowledge(SIZE)
        next(batches), next(batches)
        state = student.state_dict()
        batches.close()
    with student_of(knowledge) as student:
        student.load_state_dict(state)
        model = Model()
        data = KnowledgeDataModule(student, SIZE, weight_key="weight")
        trainer_of(tmp_path, max_epochs=2).fit(model, datamodule=data)
    assert ids_of(model.steps) == [*PASSES[0][2:], *PASSES[1]]


def test_sparse_targets_are_moved_to_the_device(tmp_path: Path) -> None:
    path = tmp_path / "sampled.avro"
    with Teacher(FileSink(path), wire={"logits": Sampled(4)}) as teacher:
        teacher.write({"logits": torch.randn(8, 50), "y": torch.randn(8)})
    with student_of(path) as student:
        data = KnowledgeDataModule(student, 4)
        batch = next(iter(data.train_dataloader()))
        moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
        data.teardown("fit")
    assert isinstance(moved["logits"], SparseTarget)
    assert all(each.device.type == "meta" for each in (moved["logits"], moved["y"]))


def test_a_student_of_other_ranks_is_refused(knowledge: Path, tmp_path: Path) -> None:
    with student_of(knowledge, shard=(1, 2)) as student:
        data = KnowledgeDataModule(student, SIZE)
        with pytest.raises(
            ConfigurationError,
            match=r'rank 0 of 1 .* the student is rank 1 of 2; make it with Student\(shard="auto"\)',
        ):
            trainer_of(tmp_path).fit(Model(), datamodule=data)


def test_a_training_step_that_takes_the_loader_is_refused(knowledge: Path, tmp_path: Path) -> None:
    class Taking(Model):
        def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
            raise AssertionError("never called")

    with pytest.raises(ConfigurationError, match="training_step takes dataloader_iter"):
        Fitting(knowledge, tmp_path, Taking()).fit()


def test_a_checkpoint_is_refused_where_a_subclass_hides_what_is_trained_on(
    knowledge: Path, tmp_path: Path
) -> None:
    class Hiding(KnowledgeDataModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return {key: batch[key] for key in ("id", "x", "y", "weight")}

    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=1)
    with pytest.raises(
        ConfigurationError, match="2 batches were fetched.*on_before_batch_transfer"
    ):
        Fitting(knowledge, tmp_path, Model()).fit(keep, kind=Hiding)


@pytest.mark.parametrize("drop_last", [False, True])
def test_lightning_knows_how_many_batches_a_pass_of_a_file_has(
    knowledge: Path, topic: MemoryTopic, tmp_path: Path, drop_last: bool
) -> None:
    class Asking(Model):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            self.said = self.trainer.num_training_batches, self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    expected = BATCHES - drop_last
    for source, said in ((knowledge, (expected, 2 * expected)), (topic, (math.inf, 99))):
        model = Asking()
        steps = 99 if source is topic else -1
        Fitting(source, tmp_path, model, drop_last=drop_last).fit(max_epochs=2, max_steps=steps)
        assert model.said[1] == said[1]
        assert model.trainer.num_training_batches == said[0]
        whole = [*PASSES[0][:expected], *PASSES[1][:expected]]
        assert ids_of(model.steps) == whole


def test_rows_are_shuffled_alike_when_training_goes_on(knowledge: Path, tmp_path: Path) -> None:
    keep = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1
    )
    fitting = Fitting(knowledge, tmp_path, model := Model(), shuffle=Shuffle(seed=3))
    fitting.fit(keep, max_epochs=2)
    whole = ids_of(model.steps)
    assert whole[:5] != PASSES[0]
    assert sorted(row for ids in whole[:5] for row in ids) == list(range(ROWS))
    for step in (3, 5, 7):
        fitting.model = again = Model()
        fitting.fit(max_epochs=2, resume=checkpoint_of(tmp_path, step))
        assert ids_of(again.steps) == whole[step:]


def test_a_state_that_comes_behind_a_fetched_batch_is_refused(knowledge: Path) -> None:
    with student_of(knowledge) as student:
        data = KnowledgeDataModule(student, SIZE)
        state = data.state_dict()
        next(iter(data.train_dataloader()))
        with pytest.raises(ConfigurationError, match="fetched before the checkpoint was loaded"):
            data.load_state_dict(state)
        data.teardown("fit")


def test_a_checkpoint_without_a_student_s_state_is_refused(knowledge: Path, tmp_path: Path) -> None:
    class Other(KnowledgeDataModule):
        pass

    run(Training(file=str(knowledge), out=str(tmp_path), epochs=1))
    fitting = Fitting(knowledge, tmp_path, Model())
    with pytest.raises(ConfigurationError, match="step=2.ckpt has no state of a .*Other"):
        fitting.fit(kind=Other, resume=checkpoint_of(tmp_path, 2))


def test_a_checkpoint_of_another_batch_size_is_refused(knowledge: Path, tmp_path: Path) -> None:
    run(Training(file=str(knowledge), out=str(tmp_path), epochs=1))
    with pytest.raises(RunMismatch, match="batch"):
        run(Training(file=str(knowledge), out=str(tmp_path), size=5, resume=2))
    assert Path(checkpoint_of(tmp_path, 2)).exists()
