"""A teacher's log-probabilities of given ids: what a student asks of its own candidates.

Hidden states, a head and ids enter. Knows no batches of tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tutelage.producers.stages.projected import CHUNK_BYTES, GPU_CHUNK_BYTES
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError


@torch.no_grad()
def candidate_log_probs(
    hidden: torch.Tensor,
    head: Callable[[torch.Tensor], torch.Tensor],
    ids: torch.Tensor,
    vocabulary: int,
    *,
    chunk_positions: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log t of some ids at each position, and the log of what all others have together.

    `log t = z - log sum_V exp z` with the logits z, and `tail = log sum_others exp z - log sum_V exp
    z`: a sum over the other ids, not 1 less the given ones, of which float32 would leave nothing
    where they have almost all probability. Logits exist for a chunk of positions at a time.

    Args:
        hidden: The hidden states `[n, H]` that the head expects.
        head: Hidden states `[m, H]` -> new logits `[m, vocabulary]`; they may be changed in place.
        ids: Integers `[n, K]`, each once at a position, on the device of `hidden`.
        vocabulary: The size of the vocabulary.
        chunk_positions: How many positions are computed at a time; None for as many as make 16 MiB
            of float32 logits, 256 MiB on a GPU.

    Returns:
        The log-probabilities, float32 `[n, K]`, and the tail, float32 `[n]`; -inf where the others
        have no probability.

    Raises:
        ConfigurationError: The ids have another shape, or one is outside the vocabulary.
    """
    if ids.dim() != 2 or ids.shape[0] != hidden.shape[0] or not ids.shape[1]:
        raise ConfigurationError(
            f"the ids are {list(ids.shape)}, and there are {hidden.shape[0]} positions; give ids "
            f"[{hidden.shape[0]}, K]"
        )
    if ids.numel():
        least, most = (int(each) for each in torch.aminmax(ids))
        if least < 0 or most >= vocabulary:
            raise ConfigurationError(
                f"ids from {least} to {most} are asked for; in the teacher's vocabulary they are "
                f"from 0 to {vocabulary - 1}"
            )
    nbytes = CHUNK_BYTES if hidden.device.type == "cpu" else GPU_CHUNK_BYTES
    if chunk_positions is None:
        chunk_positions = max(1, nbytes // (4 * vocabulary))
    else:
        check_whole_number("chunk_positions", chunk_positions)
    log_probs = torch.empty(ids.shape, dtype=torch.float32, device=hidden.device)
    tail = torch.empty(ids.shape[0], dtype=torch.float32, device=hidden.device)
    for start in range(0, ids.shape[0], chunk_positions):
        part = slice(start, start + chunk_positions)
        chosen = ids[part].long()
        logits = head(hidden[part]).float()
        total = logits.logsumexp(-1, keepdim=True)
        log_probs[part] = logits.gather(-1, chosen) - total
        others = logits.scatter_(-1, chosen, -torch.inf).logsumexp(-1)
        tail[part] = others - total[:, 0]
    return log_probs, tail
