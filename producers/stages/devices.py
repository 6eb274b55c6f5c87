"""Batches -> knowledge, on one replica of the model per device.

Each device has its own thread, so that Python's part of one forward pass overlaps with the work of
other devices. Group i goes to device i mod D. Futures are returned in the order of the groups, so
the output does not depend on D.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.producers.stages.host_batch import HostBatch
from tutelage.producers.stages.model_outputs import Returned
from tutelage.producers.stages.replicas import give_back, is_spread, replicas, with_index
from tutelage.producers.stages.row_counts import rows_in
from tutelage.producers.stages.structures import map_structure
from tutelage.producers.stages.thread_context import ThreadContext, is_about_threads
from tutelage.producers.stages.worker import Worker
from tutelage.schemas.errors import ConfigurationError

log = logging.getLogger(__name__)

Model = Callable[[Any], Any]
#: The knowledge of a group of batches and the CUDA stream for copies -> knowledge on its way to the
#: host.
Transfer = Callable[[list[Any], Any], list[HostBatch]]
#: A batch's number in its group and its knowledge -> the knowledge with its vectors encoded.
EncodeVectors = Callable[[int, Any], Any]

# How long to wait for a running forward pass when `serve` ends. After it, the caller gets the module
# back.
_END_WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Forwarded:
    """A group of batches that one device computed.

    Args:
        batches: Their knowledge, on its way to the host.
        input_rows: How many rows the input of each batch had; None where it was not counted.
        seconds: How long the group took.
    """

    batches: list[HostBatch]
    input_rows: list[int | None]
    seconds: float


class Devices:
    """Replicas of a model, one per device. The caller must close it.

    A torch module is copied to each device and put in eval mode; `close` gives the caller's modules
    back as they were. Any other callable is called as it is, by one thread per device.

    Args:
        model: A module or a callable, or a list with one per device.
        devices: The devices. If not given: for a module every visible CUDA device
            (CUDA_VISIBLE_DEVICES decides), else the CPU; for any other callable, and for a module
            that lies on several devices, one thread, which leaves batches where they are.
        context: What holds around the calls. If not given, what holds now.

    Raises:
        ConfigurationError: A device does not exist, or the model cannot be called.
    """

    def __init__(
        self,
        model: Model | Sequence[Model],
        devices: Sequence[str | torch.device] | None = None,
        context: ThreadContext | None = None,
    ) -> None:
        _check_callable(model)
        names = _named(devices) if devices is not None else _default_devices(model)
        context = context or ThreadContext.current()
        models, self._lent = replicas(model, names)
        self._replicas = [
            _Replica(one, device, context) for one, device in zip(models, names, strict=True)
        ]
        self._next = 0

    def __len__(self) -> int:
        return len(self._replicas)

    def submit(
        self,
        group: list[Any],
        transfer: Transfer,
        *,
        encode: EncodeVectors | None = None,
        owning: bool = False,
        counts_rows: bool = True,
    ) -> Future[Forwarded]:
        """Queue a group of batches on the next device.

        Args:
            group: The batches.
            transfer: Begins the copy of their knowledge to the host.
            encode: Called with what the model returns for each batch, before anything is kept of it;
                None if no key has an encoding.
            owning: Whether the inputs' memory may change once the group is done, so that nothing
                may refer to it then.
            counts_rows: Whether to count the rows of the inputs.

        Returns:
            The future of the group's knowledge.
        """
        replica = self._replicas[self._next % len(self._replicas)]
        self._next += 1
        return replica.thread.submit(
            replica.forward,
            group,
            transfer,
            encode,
            counts_rows=counts_rows,
            owning=owning,
        )

    def close(self) -> None:
        """Drop what is queued, end the threads, and give the caller's modules back.

        Waits at most 10 seconds for a running forward pass of a module; the module is given back
        when that pass is done.
        """
        giving_back = _Once(lambda: give_back(self._lent), len(self._replicas))
        for replica in self._replicas:
            replica.thread.drop(giving_back)
        deadline = time.monotonic() + _END_WAIT_S
        for replica in self._replicas if self._lent else ():
            if not replica.thread.join(max(0.0, deadline - time.monotonic())):
                log.warning(
                    "the model has not finished its last batch after %.0f s; it continues in the "
                    "background",
                    _END_WAIT_S,
                )


class _Once:
    """Calls a function when the last of several threads has called this object."""

    def __init__(self, function: Callable[[], None], callers: int) -> None:
        self._function = function
        self._left = callers
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left:
                return
        self._function()


class _Replica:
    def __init__(self, model: Model, device: torch.device | None, context: ThreadContext) -> None:
        self._model = model
        self._device = device
        self._returned = Returned()
        self._stream: Any = None
        self.thread = Worker(f"tutelage-{device or 'model'}", context)

    def forward(
        self,
        group: list[Any],
        transfer: Transfer,
        encode: EncodeVectors | None,
        *,
        counts_rows: bool,
        owning: bool,
    ) -> Forwarded:
        began = time.perf_counter()
        stream = self._copy_stream()
        # Not in inference mode, unless the caller is: tensors that a module creates and keeps must
        # be usable in later training.
        with contextlib.nullcontext() if torch.is_inference_mode_enabled() else torch.no_grad():
            try:
                calls = (self._model(moved(batch, self._device)) for batch in group)
                if encode is not None:
                    calls = (encode(*numbered) for numbered in enumerate(calls))
                knowledge = self._returned.of_calls(calls, len(group), owning=owning)
            except Exception as error:
                if is_about_threads(error):
                    raise ConfigurationError(
                        f"the model raised {type(error).__name__}: {error}. It is called in a "
                        "thread of its own: make the connection there, at its first call"
                    ) from error
                raise
            batches = transfer(knowledge, stream)
        input_rows: list[int | None] = [rows_in(batch) if counts_rows else None for batch in group]
        return Forwarded(
            batches=batches, input_rows=input_rows, seconds=time.perf_counter() - began
        )

    def _copy_stream(self) -> Any:
        if self._device is not None and self._device.type == "cuda" and self._stream is None:
            torch.cuda.set_device(self._device)
            # Torch does not type it.
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        return self._stream


def moved(batch: Any, device: torch.device | None) -> Any:
    """Return a batch with its tensors on a device, in the same structure.

    Objects without tensors, or without a method `to`, stay as they are.
    """
    if device is None:
        return batch
    if type(batch) is torch.Tensor:
        return batch.to(device, non_blocking=True)
    return map_structure(batch, lambda item: _moved_item(item, device), moves=_moves)


def _moves(value: Any) -> bool:
    """Whether an object has a method `to` (`PackedSequence`, `TensorDict`, a user's batch class)."""
    return callable(getattr(type(value), "to", None))


def _moved_item(item: Any, device: torch.device) -> Any:
    if isinstance(item, torch.Tensor):
        return item.to(device, non_blocking=True)
    if isinstance(item, torch.nn.Module) or not _moves(item):
        return item
    try:
        there = item.to(device)
    except (TypeError, ValueError, AttributeError):
        # Its `to` has another meaning.
        return item
    # Some move themselves and return nothing.
    return item if there is None else there


def _named(devices: Any) -> list[torch.device | None]:
    if isinstance(devices, (str, torch.device)) or not isinstance(devices, Sequence):
        raise ConfigurationError(
            f"devices is {devices!r}; give a list of devices, such as ['cuda:0', 'cuda:1']"
        )
    if not devices:
        raise ConfigurationError("devices is empty; name at least one, such as 'cpu'")
    named: list[torch.device | None] = []
    for name in devices:
        try:
            if isinstance(name, bool):
                raise TypeError("a bool is no device")
            device = torch.device(name)
        except (RuntimeError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"devices holds {name!r}, which names no device: {str(error).splitlines()[0]}"
            ) from error
        if device.type == "cuda" and not torch.cuda.is_available():
            raise ConfigurationError(
                f"device {device} was asked for, but torch sees no CUDA device here"
            )
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ConfigurationError(
                f"device {device} was asked for, but torch sees {torch.cuda.device_count()} CUDA "
                "devices here"
            )
        named.append(with_index(device))
    return named


def _check_callable(model: Any) -> None:
    models = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    if not models:
        raise ConfigurationError("model is an empty list; give one callable per device")
    for one in models:
        if not callable(one):
            raise ConfigurationError(
                f"model is a {type(one).__name__}; give a module or a function: "
                "batch -> {key: tensor}"
            )


def _default_devices(model: Model | Sequence[Model]) -> list[torch.device | None]:
    if isinstance(model, Sequence):
        return [None] * len(model)
    if not isinstance(model, torch.nn.Module) or is_spread(model):
        return [None]
    return [torch.device("cuda", index) for index in range(torch.cuda.device_count())] or [
        torch.device("cpu")
    ]
