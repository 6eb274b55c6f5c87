"""What a causal language model does behind its decoder: hidden states -> logits.

Knows no batches: hidden states are `[positions, H]`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tutelage.schemas.errors import ConfigurationError


class Head:
    """The rest of a model's `forward`, behind its decoder, as a function of hidden states.

    It is a shallow copy of the model whose decoder is replaced by a module that returns the given
    states, so that each architecture's own code runs: biases, scales and soft caps. Parameters are
    shared with the model, which is not changed.

    Args:
        model: The model.
        vocabulary: The logits of later entries are cut off.
    """

    def __init__(self, model: PreTrainedModel, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._model = copy.copy(model)
        modules = {**model._modules, model.base_model_prefix: _GivenStates(model.base_model)}
        self._model._modules = modules
        # Libraries that place a model on several devices wrap its `forward` on the instance.
        self._model.__dict__.pop("forward", None)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states.

        Args:
            hidden: `[positions, H]`, after the decoder's final norm.

        Returns:
            The logits `[positions, vocabulary]`, in the dtype that the model gives.
        """
        given = self._model._modules[self._model.base_model_prefix]
        assert isinstance(given, _GivenStates)
        given.hidden = hidden[None]
        ids = torch.zeros(1, hidden.shape[0], dtype=torch.long, device=hidden.device)
        try:
            logits = self._model(input_ids=ids, use_cache=False, return_dict=True).logits
        finally:
            given.hidden = None
        assert isinstance(logits, torch.Tensor)
        return logits[0, :, : self._vocabulary]

    def check(self, hidden: torch.Tensor, wanted: torch.Tensor) -> None:
        """Raise unless it computes the logits that the model itself computes.

        Args:
            hidden: The decoder's states of one row of tokens, `[T, H]`.
            wanted: The model's own logits of that row, `[T, vocabulary or more]`.

        Raises:
            ConfigurationError: It does not.
        """
        name = type(self._model).__name__
        try:
            found, wanted = self(hidden).float(), wanted[:, : self._vocabulary].float()
            same = torch.allclose(found, wanted, rtol=1e-2, atol=1e-3)
        except Exception as error:  # a model's own code may raise anything
            raise ConfigurationError(
                f"{name} cannot be divided into a decoder and a head "
                f"({type(error).__name__}: {error}); return its logits from a module of your own"
            ) from error
        if not same:
            raise ConfigurationError(
                f"{name} cannot be divided into a decoder and a head: the head alone gives other "
                "logits than the model; return its logits from a module of your own"
            )


class _GivenStates(nn.Module):
    """Stands for a decoder: returns the states that it was given, whatever it is asked."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        # In a tuple, so that it is no submodule.
        self._decoder = (decoder,)
        self.hidden: torch.Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> _Decoded:
        assert self.hidden is not None, "set by the head before the call"
        return _Decoded(self.hidden)

    def __getattr__(self, name: str) -> Any:
        # Some models read numbers of their decoder, such as a multiplier of the logits.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._decoder[0], name)


class _Decoded:
    """What a decoder returns, with nothing in it but the last hidden states."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, index: Any) -> Any:
        return (self.last_hidden_state,)[index]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def output_layer(model: PreTrainedModel) -> Any:
    """Return the layer that gives the logits; None if the model has none."""
    # Not annotated by `transformers`.
    return model.get_output_embeddings()  # type: ignore[no-untyped-call]
