"""The example of augmentation: crops from seeds alone are the teacher's, and worth having."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import xxhash
from torch.utils.data import DataLoader

from tutelage import ConfigurationError, FileSource, RunMismatch, Student
from tutelage.examples.augmentation import __main__ as command
from tutelage.examples.augmentation import experiment as module
from tutelage.examples.augmentation import student, views
from tutelage.examples.augmentation.data import Images, load
from tutelage.examples.augmentation.experiment import Experiment, report
from tutelage.examples.augmentation.network import Network, accuracy
from tutelage.examples.augmentation.teacher import Knows, Views, teach, trained

ROWS = 40


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sums of several threads may differ in their last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def few(images: Images, rows: int = ROWS) -> Images:
    return Images(pixels=images.pixels[:rows], labels=images.labels[:rows])


def digest(pixels: torch.Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(pixels.contiguous().numpy().tobytes())


class Watching(Network):
    """A network that notes the digests of what it sees."""

    def __init__(self) -> None:
        super().__init__(4, seed=0)
        self.seen: list[str] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen += [digest(each) for each in pixels]
        return super().forward(pixels)

    def __deepcopy__(self, memo: object) -> Watching:
        return self


@pytest.fixture
def taught(tmp_path: Path) -> tuple[Path, list[str]]:
    """A file of two passes, and the digests of what its teacher saw."""
    path, network = tmp_path / "teacher.avro", Watching()
    teach(path, network, few(load()[0]), name="test", passes=2)
    return path, network.seen


def test_a_student_in_another_process_sees_the_very_crops_of_the_teacher(
    taught: tuple[Path, list[str]],
) -> None:
    path, seen = taught
    program = (
        "import sys, xxhash\n"
        "from pathlib import Path\n"
        "from tutelage.examples.augmentation.data import load\n"
        "from tutelage.examples.augmentation.student import knowledge_of, repeated\n"
        "for batch in knowledge_of(Path(sys.argv[1])):\n"
        "    for pixels in repeated(batch, load()[0]):\n"
        "        print(xxhash.xxh3_64_hexdigest(pixels.contiguous().numpy()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == seen
    assert len(seen) == 2 * ROWS == len(set(seen))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_of_a_teacher_s_loader_make_the_same_crops(start: str) -> None:
    images = few(load()[0])
    data = Views("test", images, pass_index=1)
    here = [digest(data[row]["pixels"]) for row in range(ROWS)]
    loader = DataLoader(data, batch_size=7, num_workers=2, multiprocessing_context=start)
    assert [digest(each) for batch in loader for each in batch["pixels"]] == here
    assert [digest(Views("test", images)[row]["pixels"]) for row in range(ROWS)] != here


def test_the_file_holds_seeds_and_parameters_and_no_pixels(
    taught: tuple[Path, list[str]],
) -> None:
    path, seen = taught
    reader = Student()
    reader.register_teacher(FileSource(path))
    with reader:
        assert set(reader.description) == {"row", "seed", "crop", "flip", "logits"}
    assert path.stat().st_size < len(seen) * 100 < len(seen) * load()[0].pixels[0].numel()


def test_the_stored_parameters_alone_give_the_same_crops(taught: tuple[Path, list[str]]) -> None:
    path, seen = taught
    images = load()[0]
    cut = [
        digest(views.cut(images.pixels[row], batch["crop"][at], batch["flip"][at]))
        for batch in student.knowledge_of(path)
        for at, row in enumerate(batch["row"].tolist())
    ]
    assert cut == seen


def test_an_augmentation_that_changed_is_found_by_the_stored_parameters(
    taught: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_LEAST_AREA", 0.5)
    with pytest.raises(RunMismatch, match=r"image 0: seed -?\d+ gives the crop \[.*`cut` makes"):
        for batch in student.knowledge_of(taught[0]):
            student.repeated(batch, load()[0])


def test_a_student_with_other_libraries_is_refused(
    taught: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.augmentation.library_versions.version", lambda name: "0.0.1")
    with pytest.raises(RunMismatch, match="torch .* there, 0.0.1 here"):
        next(student.knowledge_of(taught[0]))


def test_the_data_are_the_same_in_every_process() -> None:
    taught, held_out = load()
    load.cache_clear()
    again, _ = load()
    assert torch.equal(taught.pixels, again.pixels) and torch.equal(taught.labels, again.labels)
    assert len(taught) + len(held_out) == 1797
    assert taught.labels.bincount().min() > 50


def test_a_student_that_repeats_the_crops_comes_nearer_to_the_teacher(tmp_path: Path) -> None:
    images, held_out = (few(each, 200) for each in load())
    teacher = trained(images, crops=2, rounds=6)
    assert accuracy(teacher, images.pixels, images.labels) > 0.2
    tiny = Experiment(
        teacher=teacher,
        images=images,
        held_out=held_out,
        folder=tmp_path,
        seeds=2,
        passes=2,
        rounds=8,
        say=lambda line: None,
    )
    results = tiny.run()
    ours, others = (results.divergences[kind] for kind in (module.REPEATED, module.OTHER))
    assert max(ours) < min(others)
    text = report(tiny, results)
    assert "400 views" in text and text.count("±") == 6


def test_the_pixels_are_what_a_teacher_leaves_out() -> None:
    batch = {"row": torch.arange(2), "pixels": load()[0].pixels[:2]}
    assert set(Knows(Network(4, seed=0).eval())(batch)) == {"row", "logits"}


def test_a_seed_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        views.view_of(load()[0].pixels[0], torch.tensor(0.5))


def test_the_command_prints_the_table_and_keeps_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, held_out = (few(each) for each in load())
    monkeypatch.setattr(command, "load", lambda: (images, held_out))
    flags = ["--seeds", "2", "--passes", "1", "--rounds", "1", "--out", str(tmp_path / "kept")]
    monkeypatch.setattr(sys, "argv", ["augmentation", *flags])
    command.main()
    assert "| the teacher's crops, from seeds |" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"seed-0.avro", "seed-1.avro"}
