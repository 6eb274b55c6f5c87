"""What the caller set around `serve` holds for the model and the inputs; the caller's module comes back as it was."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import torch
from support.teaching import Stopped, read

from tutelage import MemorySink, MemoryTopic, Teacher
from tutelage.schemas.errors import ConfigurationError, WaitTimeout

SETTING: ContextVar[str] = ContextVar("SETTING", default="none")


def serve(model: Any, inputs: Any, **options: Any) -> MemoryTopic:
    topic = MemoryTopic()
    with Teacher(MemorySink(topic), passes=options.pop("passes", 1)) as teacher:
        teacher.serve(model, inputs, **options)
    return topic


def settings() -> dict[str, Any]:
    return {
        "autocast": torch.is_autocast_enabled("cpu"),
        "dtype": torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
        "cache": torch.is_autocast_cache_enabled(),
        "device": torch.empty(0).device.type,
        "inference": torch.is_inference_mode_enabled(),
        "variable": SETTING.get(),
    }


AROUND: dict[str, Any] = {
    "nothing": contextlib.nullcontext,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to another dtype without its cache": lambda: torch.autocast(
        "cpu", dtype=torch.float16, cache_enabled=False
    ),
    "a default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
}


@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]])
@pytest.mark.parametrize("around", list(AROUND))
def test_settings_around_serve_hold_for_inputs_and_model(around: str, devices: Any) -> None:
    seen: list[dict[str, Any]] = []
    gradients: list[bool] = []

    def inputs() -> Iterator[int]:
        for index in range(4):
            seen.append(settings())
            gradients.append(torch.is_grad_enabled())
            yield index

    def model(index: int) -> dict[str, Any]:
        seen.append(settings())
        assert not torch.is_grad_enabled()
        return {"x": torch.tensor([index], device="cpu")}

    token = SETTING.set("mine")
    try:
        with AROUND[around]():
            expected, expected_gradients = settings(), torch.is_grad_enabled()
            topic = serve(model, inputs, devices=devices)
    finally:
        SETTING.reset(token)
    assert read(topic) == list(range(4))
    assert seen == [expected] * 8
    assert gradients == [expected_gradients] * 4


def test_autocast_around_serve_decides_the_dtype_that_is_written() -> None:
    net = torch.nn.Linear(8, 4)
    topic = MemoryTopic()
    with torch.autocast("cpu", dtype=torch.bfloat16), Teacher(MemorySink(topic)) as teacher:
        teacher.serve(lambda batch: {"x": net(batch)}, [torch.rand(3, 8)] * 3)
        assert teacher.run.description is not None
        assert teacher.run.description["x"].dtype == "bfloat16"


@pytest.mark.parametrize("place", ["to the end", "inputs", "model"])
def test_a_generator_begins_runs_and_ends_in_one_thread(place: str) -> None:
    threads: list[int] = []

    def inputs() -> Iterator[torch.Tensor]:
        threads.append(threading.get_ident())
        try:
            for index in range(20):
                if place == "inputs" and index == 9:
                    raise Stopped
                threads.append(threading.get_ident())
                yield torch.tensor([index])
        finally:
            threads.append(threading.get_ident())

    def model(batch: torch.Tensor) -> dict[str, Any]:
        if place == "model" and int(batch) == 5:
            raise Stopped
        return {"x": batch}

    for given, passes in ((inputs, 2), (inputs(), 1)):
        threads.clear()
        with contextlib.nullcontext() if place == "to the end" else pytest.raises(Stopped):
            serve(model, given, passes=passes)
        assert len(set(threads)) == 1
        ends = threads.count(threads[0])
        assert ends >= 3


def rows_of(connection: sqlite3.Connection) -> Iterator[torch.Tensor]:
    for (number,) in connection.execute("SELECT number FROM numbers ORDER BY number"):
        yield torch.tensor([number])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE numbers (number INTEGER)")
        connection.executemany("INSERT INTO numbers VALUES (?)", [(number,) for number in range(9)])
    return path


class Rows:
    """Inputs that open their connection when they are first read, and keep it for the passes that follow."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.connection: sqlite3.Connection | None = None

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.connection = self.connection or sqlite3.connect(self._path, check_same_thread=True)
        return rows_of(self.connection)


def test_a_connection_that_the_inputs_open_serves_all_passes(database: Path) -> None:
    def inputs() -> Iterator[torch.Tensor]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            yield from rows_of(connection)

    topic = MemoryTopic()
    with Teacher(MemorySink(topic), passes=2) as teacher:
        teacher.serve(lambda batch: {"x": batch}, inputs)
    assert read(topic, passes=2) == [*range(9)] * 2


def test_a_connection_of_the_callers_thread_is_named_with_the_remedy_and_read_there_if_asked(
    database: Path,
) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        with pytest.raises(
            ConfigurationError, match=r"thread of their own.*read_ahead=False"
        ) as caught:
            serve(lambda batch: {"x": batch}, rows_of(connection))
        assert isinstance(caught.value.__cause__, sqlite3.ProgrammingError)
        topic = serve(lambda batch: {"x": batch}, rows_of(connection), read_ahead=False)
        assert read(topic) == list(range(9))
        with pytest.raises(ConfigurationError, match=r"the model raised.*thread of its own"):
            serve(lambda batch: {"x": next(rows_of(connection))}, [1])
    kept = Rows(database)
    assert read(serve(lambda batch: {"x": batch}, kept, read_ahead=False)) == list(range(9))
    assert kept.connection is not None
    kept.connection.close()


class Cached(torch.nn.Module):
    """A module that keeps what it made in its first call, as many do with positions."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.lin, self.lazy, self.norm = (
            torch.nn.Linear(4, 4),
            torch.nn.LazyLinear(4),
            torch.nn.BatchNorm1d(4),
        )
        self.cache: torch.Tensor | None = None
        self.fails = fails

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        self.cache = torch.arange(4.0).cos() if self.cache is None else self.cache
        if self.fails:
            raise Stopped
        return {"x": self.norm(self.lazy(self.lin(x) * self.cache))}


@pytest.mark.parametrize("fails", [False, True])
def test_a_module_comes_back_as_it_was_and_can_be_trained(fails: bool) -> None:
    model = Cached(fails).train()
    model.norm.eval()
    before = {name: part.training for name, part in model.named_modules()}
    with pytest.raises(Stopped) if fails else contextlib.nullcontext():
        serve(model, [torch.rand(3, 4)] * 3)
    assert {name: part.training for name, part in model.named_modules()} == before
    model.fails = False
    model.eval()(torch.rand(3, 4))
    assert model.cache is not None
    assert not any(
        tensor.is_inference() for tensor in (*model.parameters(), *model.buffers(), model.cache)
    )
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.rand(3, 4))["x"].square().sum().backward()
    optimizer.step()
    assert model.lin.weight.grad is not None


def test_a_module_is_in_eval_mode_while_it_serves_and_when_one_is_given_per_device() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            assert not self.training
            return {"x": x}

    models = [Model(), Model()]
    for given in (models[0], models, [models[0], models[0]]):
        serve(given, [torch.zeros(1, dtype=torch.int64)] * 4)
        assert all(model.training for model in models)
    with pytest.raises(ConfigurationError):
        serve(models, [torch.zeros(1)], devices=["cpu"])
    assert all(model.training for model in models)


@pytest.mark.gpu
def test_a_module_moves_back_to_where_it_was() -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            assert self.lin.weight.device.type == "cuda"
            return {"x": self.lin(x).argmax(1)}

    model = Model()
    weight = model.lin.weight
    before = weight.detach().clone()
    serve(model, [torch.zeros(1, 3)], devices=["cuda"])
    assert model.lin.weight is weight
    assert torch.equal(weight, before)


def test_a_module_is_given_back_when_its_last_call_is_done() -> None:
    release, entered = threading.Event(), threading.Event()

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            entered.set()
            release.wait(20)
            assert not self.training
            return {"x": x}

    model = Slow()
    timer = threading.Timer(1.0, release.set)
    timer.start()
    with pytest.raises(WaitTimeout):
        serve(model, [torch.zeros(1)], timeout_s=0.3)
    timer.join()
    assert entered.is_set()
    assert model.training


class Lock(torch.nn.Module):
    """A module that cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


class Computed(torch.nn.Module):
    """A module with a tensor that is no leaf, which torch refuses to copy."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.twice = self.weight * 2

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


@pytest.mark.parametrize(
    "kind", [Lock, Computed, lambda: torch.nn.Sequential(torch.nn.LazyLinear(3))]
)
def test_a_module_that_cannot_be_copied_to_several_devices_is_refused_with_the_way_out(
    kind: Any,
) -> None:
    model = kind()
    with pytest.raises(ConfigurationError, match="one module per device"):
        serve(model, [torch.zeros(1, dtype=torch.int64)], devices=["cpu", "cpu"])
    assert model.training
    if kind is Lock:
        assert (
            read(
                serve(
                    [Lock(), Lock()],
                    [torch.zeros(1, dtype=torch.int64)] * 3,
                    devices=["cpu", "cpu"],
                )
            )
            == [0] * 3
        )


def test_a_module_that_cannot_be_put_on_its_device_comes_back_as_it_was() -> None:
    module = torch.nn.Sequential(
        torch.nn.Linear(2, 2, device="meta"), torch.nn.Linear(2, 2, device="meta")
    ).train()
    module[0].eval()
    with pytest.raises(NotImplementedError), Teacher(MemorySink(MemoryTopic())) as teacher:
        teacher.serve(module, [torch.ones(2, 2)], devices=["cpu"])
    assert [part.training for part in module.modules()] == [True, False, True]


class Spread(torch.nn.Module):
    """A model that a library has spread over devices; one of its layers is not used here."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)
        self.elsewhere = torch.nn.Linear(2, 2, device="meta")

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"y": self.layer(batch)}


def test_a_module_that_lies_on_several_devices_serves_where_it_is() -> None:
    module, topic = Spread(), MemoryTopic()
    with Teacher(MemorySink(topic)) as teacher:
        teacher.serve(module, [torch.ones(2, 2)])
    assert {tensor.device.type for tensor in module.parameters()} == {"cpu", "meta"}
    with (
        pytest.raises(
            ConfigurationError, match="tensors lie on cpu, meta, as .* leave devices out"
        ),
        Teacher(MemorySink(MemoryTopic())) as teacher,
    ):
        teacher.serve(module, [torch.ones(2, 2)], devices=["cpu"])
    assert {tensor.device.type for tensor in module.parameters()} == {"cpu", "meta"}
