"""The context of the thread that calls `serve` -> the threads that read inputs and call the model.

Autocast, the default device and the grad mode are per thread in torch, and so are Python's context
variables. Modes that intercept torch calls (`TorchDispatchMode`, `TorchFunctionMode`) and CUDA
streams are not transferred.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

_ABOUT_THREADS = re.compile(
    r"\b(same|another|different|other|wrong) thread\b|created in a thread", re.IGNORECASE
)
_AUTOCAST_TYPES = ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla", "npu")


@dataclass(frozen=True, kw_only=True, slots=True)
class ThreadContext:
    """A thread's context variables and torch settings. Immutable, so any thread may use it."""

    context: contextvars.Context
    autocast: tuple[tuple[str, torch.dtype], ...]
    autocast_cache: bool
    default_device: torch.device
    cuda_device: int | None
    grad: bool
    inference: bool

    @classmethod
    def current(cls) -> ThreadContext:
        """Return the context of the calling thread."""
        return cls(
            context=contextvars.copy_context(),
            autocast=tuple(
                (kind, torch.get_autocast_dtype(kind))
                for kind in _AUTOCAST_TYPES
                if _autocasts(kind)
            ),
            autocast_cache=torch.is_autocast_cache_enabled(),
            default_device=torch.get_default_device(),
            cuda_device=torch.cuda.current_device() if has_cuda() else None,
            grad=torch.is_grad_enabled(),
            inference=torch.is_inference_mode_enabled(),
        )

    def run(self, function: Callable[[], None]) -> None:
        """Call a function in the current thread, within this context.

        Each call has its own copy of the context variables.
        """
        self.context.copy().run(self._run, function)

    def _run(self, function: Callable[[], None]) -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                torch.inference_mode() if self.inference else torch.set_grad_enabled(self.grad)
            )
            for kind, dtype in self.autocast:
                stack.enter_context(
                    torch.autocast(kind, dtype=dtype, cache_enabled=self.autocast_cache)
                )
            if self.default_device != torch.device("cpu"):
                stack.enter_context(self.default_device)
            if self.cuda_device is not None:
                stack.enter_context(torch.cuda.device(self.cuda_device))
            function()


def has_cuda() -> bool:
    """Whether CUDA is initialized in this process. Does not initialize it."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # torch's own gap


def _autocasts(kind: str) -> bool:
    try:
        return torch.is_autocast_enabled(kind)
    except RuntimeError:
        # This build of torch lacks the device type.
        return False


def is_about_threads(error: Exception) -> bool:
    """Whether an error says that an object is bound to another thread, as SQLite's errors do."""
    return _ABOUT_THREADS.search(str(error)) is not None
