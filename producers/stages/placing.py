"""The user's modules -> one replica a device, and back as they were."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tutelage.schemas.errors import ConfigurationError


class Loan:
    """A module that is lent to one device: in eval mode and on that device until it is given back.

    Guarantee: `give_back` sets each submodule's mode, and the device of the module, to what they were.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device | None) -> None:
        self._module = module
        self._modes = [(part, part.training) for part in module.modules()]
        self._home = {tensor.device for tensor in _tensors(module)}
        self._moved = False
        try:
            module.eval()
            if device is not None and any(home != _exact(device) for home in self._home):
                self._moved = True
                module.to(device)
        except BaseException:
            # Such as a device that is full: some of it has moved.
            self.give_back()
            raise

    def give_back(self) -> None:
        """Undo what was changed; once."""
        modes, self._modes = self._modes, []
        for part, training in modes:
            # Not by `train`, which some modules override.
            part.training = training
        if self._moved and len(self._home) == 1:
            self._module.to(next(iter(self._home)))
        self._moved = False


def replicas(model: Any, devices: Sequence[torch.device | None]) -> tuple[list[Any], list[Loan]]:
    """A model for each device: the user's own for the first, copies for the others; and what is lent. ConfigurationError if it cannot be."""
    models = list(model) if isinstance(model, Sequence) else [model] * len(devices)
    if len(models) != len(devices):
        raise ConfigurationError(
            f"{len(models)} models for {len(devices)} devices; give one each, or one for all"
        )
    lent: list[Loan] = []
    placed: list[Any] = []
    try:
        for index, (one, device) in enumerate(zip(models, devices, strict=True)):
            if not isinstance(one, torch.nn.Module):
                placed.append(one)
            elif device is None or index == 0 or isinstance(model, Sequence):
                lent.append(Loan(one, device))
                placed.append(one)
            else:
                placed.append(_copied(one, device).to(device).eval())
    except BaseException:
        give_back(lent)
        raise
    return placed, lent


def give_back(lent: Sequence[Loan]) -> None:
    """Give back in reverse, since a module may have been lent twice."""
    for loan in reversed(lent):
        loan.give_back()


def _copied(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    if any(
        isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
        for tensor in _tensors(module)
    ):
        raise ConfigurationError(
            f"the model has lazy parameters without values yet, and a copy for {device} would get others; call it with one batch first, or give "
            "one module per device"
        )
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ConfigurationError(
            f"the model cannot be copied for {device} ({type(error).__name__}: {error}); give one module per device: "
            "serve([first, second], inputs, devices=[...])"
        ) from error


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _exact(device: torch.device) -> torch.device:
    """The device with its number: `cuda` is the current one."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if device == torch.device("cuda")
        else device
    )
