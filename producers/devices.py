"""Batches -> knowledge, on one replica of the model per device, results in the order of the batches.

Each device has a thread of its own, so that Python's part of one forward pass overlaps with another device's work. Batch i goes
to device i mod D; futures come back in order, so D never shows in the output.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.producers.inputs import rows_in
from tutelage.producers.transfer import HostBatch
from tutelage.producers.worker import Worker
from tutelage.schemas.errors import ConfigurationError

Model = Callable[[Any], Any]
#: Knowledge of a group of batches, and the stream for copies -> the same on its way to the host.
Transfer = Callable[[list[Any], Any], list[HostBatch]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarded:
    """A group of batches done by one device: each one's knowledge and the rows its input had, and the seconds they took."""

    batches: list[HostBatch]
    input_rows: list[int | None]
    seconds: float


class Devices:
    """Replicas of a model, one a device. Close it; it ends its threads.

    A torch module is copied to each device and put in eval mode. Any other callable is called as it is, by one thread a device;
    give a list with one callable per device where it keeps state. `devices=None` is every visible CUDA device for a module
    (as CUDA_VISIBLE_DEVICES allows), else the CPU; for other callables it is one thread, and batches are handed over where they are.
    """

    def __init__(self, model: Model | Sequence[Model], devices: Sequence[str | torch.device] | None = None) -> None:
        names = [torch.device(name) for name in devices] if devices is not None else _default_devices(model)
        if not names:
            raise ConfigurationError("devices is empty; name at least one, such as 'cpu'")
        for device in names:
            if device is not None and device.type == "cuda" and not torch.cuda.is_available():
                raise ConfigurationError(f"device {device} was asked for, but torch sees no CUDA device here")
        models = list(model) if isinstance(model, Sequence) else [model] * len(names)
        if len(models) != len(names):
            raise ConfigurationError(f"{len(models)} models for {len(names)} devices; give one each, or one for all")
        self._replicas = [
            _Replica(_placed(one, device, shared=index > 0 and not isinstance(model, Sequence)), device)
            for index, (one, device) in enumerate(zip(models, names, strict=True))
        ]
        self._next = 0
        #: Whether anybody wants to know how many rows the inputs have.
        self.counts_rows = True

    def __len__(self) -> int:
        return len(self._replicas)

    def submit(self, group: list[Any], transfer: Transfer) -> Future[Forwarded]:
        """Queue a group of batches on the next device; `transfer(group, stream)` begins the copy to the host."""
        replica = self._replicas[self._next % len(self._replicas)]
        self._next += 1
        return replica.thread.submit(replica.forward, group, transfer, counts_rows=self.counts_rows)

    def close(self) -> None:
        """Drop what is queued and end the threads; does not wait for a forward pass that is under way."""
        for replica in self._replicas:
            replica.thread.close()


class _Replica:
    def __init__(self, model: Model, device: torch.device | None) -> None:
        self._model = model
        self._device = device
        self._stream: Any = None
        self.thread = Worker(f"tutelage-{device or 'model'}")

    def forward(self, group: list[Any], transfer: Transfer, *, counts_rows: bool) -> Forwarded:
        began = time.perf_counter()
        # A callable that is no module may train or keep tensors: it gets the milder of the two modes.
        with torch.inference_mode() if isinstance(self._model, torch.nn.Module) else torch.no_grad():
            batches = transfer([self._model(moved(batch, self._device)) for batch in group], self._copy_stream())
        input_rows: list[int | None] = [rows_in(batch) if counts_rows else None for batch in group]
        return Forwarded(batches=batches, input_rows=input_rows, seconds=time.perf_counter() - began)

    def _copy_stream(self) -> Any:
        if self._device is not None and self._device.type == "cuda" and self._stream is None:
            torch.cuda.set_device(self._device)
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch's own gap
        return self._stream


def moved(batch: Any, device: torch.device | None) -> Any:
    """The batch with its tensors on the device, in the same lists, tuples and dicts; anything else stays."""
    if device is None:
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return type(batch)({key: moved(value, device) for key, value in batch.items()})
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(moved(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(moved(value, device) for value in batch)
    return batch


def _default_devices(model: Model | Sequence[Model]) -> list[Any]:
    if isinstance(model, Sequence):
        return [None] * len(model)
    if not isinstance(model, torch.nn.Module):
        return [None]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [torch.device("cpu")]


def _placed(model: Model, device: torch.device | None, *, shared: bool) -> Model:
    if not isinstance(model, torch.nn.Module) or device is None:
        return model
    # The first replica is the user's own module; each other device has a copy, so that threads share no state.
    return (copy.deepcopy(model) if shared else model).to(device).eval()
