"""The user's model -> one replica per device; afterwards the user's modules are as they were."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from tutelage.schemas.errors import ConfigurationError


class Loan:
    """Puts a user's module in eval mode and on a device, until it is given back.

    Guarantee: `give_back` restores the mode of each submodule, and the device of a module that was
    on one.

    Args:
        module: The module.
        device: The device to move it to; None leaves it where it is.
    """

    def __init__(self, module: torch.nn.Module, device: torch.device | None) -> None:
        self._module = module
        self._modes = [(part, part.training) for part in module.modules()]
        self._original_devices = {tensor.device for tensor in _tensors(module)}
        self._moved = False
        if device is not None and is_spread(module):
            places = ", ".join(sorted(map(str, self._original_devices)))
            raise ConfigurationError(
                f"the model's tensors lie on {places}, as a device_map places them, and it can only "
                "run there, as one replica; leave devices out"
            )
        try:
            module.eval()
            if device is not None and any(
                original != with_index(device) for original in self._original_devices
            ):
                self._moved = True
                module.to(device)
        except BaseException:
            # If the device's memory is full, part of the module has moved already.
            self.give_back()
            raise

    def give_back(self) -> None:
        """Restore the module. Further calls do nothing."""
        modes, self._modes = self._modes, []
        for part, training in modes:
            # Not through `train`, which some modules override.
            part.training = training
        if self._moved and len(self._original_devices) == 1:
            self._module.to(next(iter(self._original_devices)))
        self._moved = False


def replicas(model: Any, devices: Sequence[torch.device | None]) -> tuple[list[Any], list[Loan]]:
    """Make one replica of the model per device.

    The user's own module serves the first device, copies serve the others. Callables that are not
    modules are used as they are.

    Args:
        model: A module or another callable; or a list with one per device.
        devices: The devices; None for one leaves its model where it is.

    Returns:
        The replicas, and the user's modules that must be given back.

    Raises:
        ConfigurationError: The numbers of models and devices differ, a model lies on several
            devices, or it cannot be copied.
    """
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
                placed.append(_copy_module(one, device).to(device).eval())
    except BaseException:
        give_back(lent)
        raise
    return placed, lent


def give_back(lent: Sequence[Loan]) -> None:
    """Restore the modules, in reverse order, since a module may have been lent twice."""
    for loan in reversed(lent):
        loan.give_back()


def _copy_module(module: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    if any(
        isinstance(tensor, (UninitializedParameter, UninitializedBuffer))
        for tensor in _tensors(module)
    ):
        raise ConfigurationError(
            f"the model has lazy parameters without values yet, and a copy for {device} would get "
            "different ones; call it with one batch first, or give one module per device"
        )
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise ConfigurationError(
            f"the model cannot be copied for {device} ({type(error).__name__}: {error}); give one "
            "module per device: serve([first, second], inputs, devices=[...])"
        ) from error


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def is_spread(module: torch.nn.Module) -> bool:
    """Return whether a library has spread a module over several devices, or offloaded some of it.

    What lies on the CPU beside one GPU does not count: it can be moved there.
    """
    devices = {tensor.device for tensor in _tensors(module)}
    return len(devices) > 1 and (
        torch.device("meta") in devices or len(devices - {torch.device("cpu")}) > 1
    )


def with_index(device: torch.device) -> torch.device:
    """Return the device with its index: `cuda` means the current CUDA device."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if device == torch.device("cuda")
        else device
    )
