"""`Head`: the last layer of a language model, from hidden states to logits.

Knows nothing of losses, records or streams.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import xxhash
from torch.nn import functional

from tutelage.schemas.errors import ConfigurationError

# The rows of a weight that are copied to the CPU at once for its checksum.
_ROWS = 8_192


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """The last layer of a language model: hidden states `[n, H]` -> logits `[n, vocabulary]`.

    It computes

        h      = norm(hidden)                                 if there is a norm
        logits = scale * (h @ weight[:vocabulary].T + bias[:vocabulary])
        logits = softcap * tanh(logits / softcap)             if there is a soft cap

    The norm is computed in float32 and rounded to the dtype of `hidden`. The product is computed in
    the dtype to which `hidden` and `weight` promote, or under `torch.autocast` in its dtype; so
    bfloat16 states and a bfloat16 weight give logits that were rounded to bfloat16, as the model's
    own are. All that follows, and the result, is float32 (float64 for a float64 product).

    Args:
        weight: `[V, H]`, of a floating dtype.
        bias: `[V]`, or None.
        norm: The model's final norm, where hidden states were taken before it: "rms" (root mean
            square) or "layer". None if they were taken after it, as the `last_hidden_state` of
            Hugging Face's decoders is.
        norm_weight: `[H]`: the factors of the norm; None for 1. Gemma's norms store them less 1:
            give `1 + weight`.
        norm_bias: `[H]`: the bias of a layer norm, or None.
        eps: What the norm adds to the mean square or the variance.
        scale: The logits are multiplied by it.
        softcap: The largest absolute logit, as Gemma 2 caps them; None for no cap.
        vocabulary: How many rows of `weight` are tokens; 0 for all. The padded rows behind them
            never get probability.
        name: What messages call it. It does not change the logits.

    Raises:
        ConfigurationError: Shapes, dtypes or numbers do not fit together.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    norm: Literal["rms", "layer"] | None = None
    norm_weight: torch.Tensor | None = None
    norm_bias: torch.Tensor | None = None
    eps: float = 1e-6
    scale: float = 1.0
    softcap: float | None = None
    vocabulary: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        weight = self.weight
        if weight.dim() != 2 or not weight.is_floating_point():
            raise ConfigurationError(f"{self}: the weight must be [V, H], of a floating dtype")
        rows, width = weight.shape
        for name, length in (("bias", rows), ("norm_weight", width), ("norm_bias", width)):
            tensor = getattr(self, name)
            if tensor is not None and tuple(tensor.shape) != (length,):
                raise ConfigurationError(
                    f"{self}: {name} has the shape {list(tensor.shape)}; for a weight "
                    f"[{rows}, {width}] it must be [{length}]"
                )
        if self.norm not in (None, "rms", "layer"):
            raise ConfigurationError(
                f"{self}: norm is {self.norm!r}; it must be None, 'rms' or 'layer'"
            )
        if self.norm is None and (self.norm_weight is not None or self.norm_bias is not None):
            raise ConfigurationError(f"{self} has the weights of a norm, but norm is None")
        if self.norm == "rms" and self.norm_bias is not None:
            raise ConfigurationError(f"{self}: an 'rms' norm has no bias; did you mean 'layer'?")
        if not 0 <= self.vocabulary <= rows:
            raise ConfigurationError(f"{self}: vocabulary is {self.vocabulary} of {rows} rows")
        if not math.isfinite(self.scale) or not self.scale:
            raise ConfigurationError(f"{self}: scale is {self.scale}; it must be finite and not 0")
        if self.softcap is not None and not 0 < self.softcap < math.inf:
            raise ConfigurationError(f"{self}: softcap is {self.softcap}; it must be above 0")
        object.__setattr__(self, "vocabulary", self.vocabulary or rows)

    @classmethod
    def from_model(
        cls,
        model: Any,
        *,
        vocabulary: int = 0,
        check: torch.Tensor | Literal[False] | None = None,
    ) -> Head:
        """Return the head of a causal language model of Hugging Face's `transformers`.

        Its input is `model.base_model(...).last_hidden_state`, which is taken after the final norm.
        The tensors are the model's own: gradients reach them.

        Args:
            model: Such as a `LlamaForCausalLM`.
            vocabulary: How many rows are tokens, such as `len(tokenizer)`; 0 for all.
            check: Token ids int64 `[rows, T]`, on the model's device. The model computes their
                logits, with which the head's are compared. None for a few of the first ids; False
                for no comparison, of a model that cannot be called here.

        Raises:
            ConfigurationError: The model's logits are computed in a way that is not known here, or
                those of `check` differ. Write `Head(...)` yourself then.
        """
        from tutelage.consumers.losses.model_head import check_head, head_arguments

        head = cls(**head_arguments(model), vocabulary=vocabulary)
        if check is not False:
            check_head(head, model, check)
        return head

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states, as `logits` does."""
        return self.logits(hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Args:
            hidden: `[..., H]`, of a floating dtype, on the head's device.

        Returns:
            float32 (float64 for a float64 product) `[..., vocabulary]`.
        """
        return self.project(hidden, *self.operands(hidden))

    def project(
        self, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute logits as `logits` does, with `operands` that were made before."""
        states = self.normalised(hidden).to(weight.dtype)
        return self.finished(functional.linear(states, weight, bias))

    def normalised(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what is multiplied with the weight: `[..., H]` in the dtype of `hidden`."""
        if self.norm is None:
            return hidden
        states = widened(hidden)
        dtype = states.dtype
        if self.norm == "rms":
            states = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.eps)
        else:
            states = states - states.mean(-1, keepdim=True)
            states = states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.eps)
        if self.norm_weight is not None:
            states = states * self.norm_weight.to(dtype)
        if self.norm_bias is not None:
            states = states + self.norm_bias.to(dtype)
        return states.to(hidden.dtype)

    def finished(self, product: torch.Tensor) -> torch.Tensor:
        """Return the logits for a product `[..., vocabulary]` of states and weight."""
        logits = widened(product)
        if self.scale != 1:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def operands(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the rows of weight and bias that are tokens, in the dtype of their product."""
        kind = hidden.device.type
        dtype = torch.promote_types(hidden.dtype, self.weight.dtype)
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        bias = None if self.bias is None else self.bias[: self.vocabulary].to(dtype)
        return self.weight[: self.vocabulary].to(dtype), bias

    def to(self, device: torch.device | str | int) -> Head:
        """Return the head with its tensors on a device; their dtypes stay."""
        tensors = self.tensors()
        return replace(self, **{name: each.to(device) for name, each in tensors.items()})  # type: ignore[arg-type]

    def detached(self) -> Head:
        """Return the head with its tensors cut off from the gradient."""
        tensors = self.tensors()
        return replace(self, **{name: each.detach() for name, each in tensors.items()})  # type: ignore[arg-type]

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return its tensors by name, without those that are None."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}

    def numbers(self) -> dict[str, Any]:
        """Return what changes the logits besides the tensors, as JSON values."""
        return {
            "norm": self.norm,
            "eps": self.eps if self.norm else 0.0,
            "scale": self.scale,
            "softcap": self.softcap,
        }

    def checksum(self) -> str:
        """Return the xxh3-64 checksum, 16 hexadecimal digits, of all that changes the logits.

        That is: the rows of weight and bias that are tokens, the norm, scale, soft cap, and the
        dtypes. The device, the padded rows and the name are left out.
        """
        tensors = self.tensors()
        numbers = [
            self.norm,
            self.eps if self.norm else None,
            self.scale,
            self.softcap,
            self.vocabulary,
            self.weight.shape[1],
            {name: str(tensor.dtype) for name, tensor in sorted(tensors.items())},
        ]
        digest = xxhash.xxh3_64(json.dumps(numbers).encode())
        for name, tensor in sorted(tensors.items()):
            rows = tensor[: self.vocabulary] if name in ("weight", "bias") else tensor
            for part in torch.split(rows.detach(), _ROWS):
                digest.update(part.contiguous().cpu().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        sizes = " x ".join(f"{size:,}" for size in self.weight.shape)
        parts = [f"{sizes} {str(self.weight.dtype).removeprefix('torch.')}"]
        if self.vocabulary and self.vocabulary != self.weight.shape[0]:
            parts.append(f"vocabulary {self.vocabulary:,}")
        parts += ["bias"] if self.bias is not None else []
        parts += [f"{self.norm} norm"] if self.norm else []
        parts += [f"scale {self.scale:g}"] if self.scale != 1 else []
        parts += [f"softcap {self.softcap:g}"] if self.softcap is not None else []
        return f"Head{name}({', '.join(parts)})"


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in float32, or in float64 where it is that."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
