"""What a teacher sent of one text -> dense logits at the text's positions. Knows no trainer."""

from __future__ import annotations

import torch

from tutelage import SparseTarget
from tutelage.schemas.errors import ConfigurationError, CorruptData

# The logit of an id without probability. Its exponential is 0 in float32, and unlike with -inf its
# share in a divergence is 0, not NaN.
_ABSENT = -1e4


def write_logits(
    into: torch.Tensor, at: torch.Tensor, value: torch.Tensor | SparseTarget, key: str
) -> None:
    """Write the logits of one text.

    Args:
        into: float32 `[T, vocabulary]`, on the device of the others.
        at: int64 `[positions]`: the positions that have logits.
        value: Floats `[positions, ids]` with no more ids than the vocabulary, or a sampled target
            of one row, whose logits are the logarithms of `counts / draws`.
        key: What messages call it.

    Raises:
        ConfigurationError: There are logits of another number of positions.
        CorruptData: Logits are not finite.
    """
    found = value.positions if isinstance(value, SparseTarget) else len(value)
    if found != len(at):
        raise ConfigurationError(
            f"{key!r} has logits of {found} positions, in a text with {len(at)} that should have "
            'them; have the teacher send "kept", as CausalLMTeacher does'
        )
    into[at] = _ABSENT
    if isinstance(value, SparseTarget):
        into[at[value.owners()], value.ids.long()] = value.probabilities().log()
    elif bool(value.isfinite().all()):
        into[at, : value.shape[-1]] = value.float()
    else:
        raise CorruptData(f"{key!r} has logits that are not finite, which would make the loss NaN")
