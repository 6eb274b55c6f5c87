"""The answer of a completions server, checked -> the most probable ids of each position.

The format is vLLM's: each choice has `prompt_logprobs`, a list with null for the first token and for
each other one a mapping of token id -> `{"logprob": ...}` of the k most probable ids and the token
itself. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tutelage.schemas.errors import TransportError

# Of what is shown of a wrong answer.
_SHOWN = 200


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PromptLogprobs:
    """What a server said of n positions.

    Args:
        states: float32 `[n, 2 k]`: the k most probable ids, and their log-probabilities. Ids are
            exact: a vocabulary has far fewer than 2^24.
        chosen: float32 `[n]`: the log-probability of the token that follows.
    """

    states: torch.Tensor
    chosen: torch.Tensor


def read_choices(
    answer: Any, rows: Sequence[Sequence[int]], k: int, vocabulary: int, where: str
) -> PromptLogprobs:
    """Read what a server said about some rows, all positions but the last of each.

    Args:
        answer: The answer, decoded from JSON.
        rows: The tokens that it was asked about.
        k: How many ids of a position were asked for.
        vocabulary: The number of tokens.
        where: The server, for messages.

    Raises:
        TransportError: The answer is not in vLLM's format, or about other tokens.
    """
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != len(rows):
        raise TransportError(
            f"{where} was asked about {len(rows)} rows and answered {str(answer)[:_SHOWN]}"
        )
    by_row = {choice.get("index"): choice.get("prompt_logprobs") for choice in choices}
    positions: list[list[float]] = []
    chosen: list[float] = []
    for number, row in enumerate(rows):
        found = by_row.get(number)
        if not isinstance(found, list) or len(found) != len(row):
            raise TransportError(
                f"{where}: row {number} has {len(row)} tokens, and prompt_logprobs is "
                f"{str(found)[:_SHOWN]}; is it a vLLM server, and are these its tokens?"
            )
        for token, entries in zip(row[1:], found[1:], strict=True):
            known, own = _read_position(entries, token, k, vocabulary, f"{where}: row {number}")
            positions.append(known)
            chosen.append(own)
    states = torch.tensor(positions, dtype=torch.float32).reshape(len(positions), 2 * k)
    return PromptLogprobs(states=states, chosen=torch.tensor(chosen, dtype=torch.float32))


def _read_position(
    entries: Any, token: int, k: int, vocabulary: int, where: str
) -> tuple[list[float], float]:
    """The k most probable ids of a position with their log-probabilities, and that of its token."""
    try:
        known = {int(key): float(value["logprob"]) for key, value in entries.items()}
        own = known[token]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TransportError(
            f"{where}: what is said of token {token} is {str(entries)[:_SHOWN]}; its own "
            "log-probability must be there"
        ) from error
    best = sorted(known, key=lambda each: (-known[each], each))[:k]
    outside = [each for each in best if not 0 <= each < vocabulary]
    if len(best) < k or outside or any(not known[each] <= 0 for each in best):
        raise TransportError(
            f"{where}: {k} ids below {vocabulary} were asked for, and token {token} has "
            f"{str(entries)[:_SHOWN]}"
        )
    # A probability of 0 is the least number, with which logits stay finite.
    least = torch.finfo(torch.float32).min / 2
    return [*map(float, best), *(max(known[each], least) for each in best)], own
