"""Servers with OpenAI's completions and vLLM's `prompt_logprobs` -> top-k knowledge.

Token ids enter, what the server's model finds most probable at each position leaves. Knows no model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from tutelage import Projected, Ragged, TopK
from tutelage.integrations.json_requests import JsonRequests
from tutelage.integrations.prompt_logprobs import read_choices
from tutelage.schemas.arguments import check_seconds, check_text, check_whole_number
from tutelage.schemas.encodings import Encoding
from tutelage.schemas.errors import ConfigurationError


class CompletionsTeacher:
    """A model behind a server as a teacher: `vllm serve MODEL --max-logprobs K`.

    Guarantee: position i has what the model finds most probable for token i + 1, given the tokens
    up to i, as for `CausalLMTeacher`. The last position of a row has none.

    A server gives the k most probable ids, so the knowledge is top-k, which is biased: pass `wire`
    to the teacher. It cannot give draws (`Sampled`) or hidden states: for these the model must run
    here. Its probabilities must be those of the model itself, at temperature 1
    (`--logprobs-mode raw_logprobs`, vLLM's default).

        teacher = CompletionsTeacher("http://localhost:8000/v1", model="...", k=20, vocabulary=...)
        Teacher(sink, wire=teacher.wire).serve(teacher, loader)

    A batch has `input_ids`, integers `[rows, T]`, and if it is padded on the right, an
    `attention_mask` `[rows, T]` or the lengths under `input_ids.lengths`, as for queries. The
    knowledge has `input_ids` (int32), `logits`, `kept` (which positions have logits) and
    `token_logprobs` (float32 `[T - 1]`: the log-probability of each next token), all ragged.

    Args:
        url: Where `/completions` is, such as `http://localhost:8000/v1`.
        model: What the server calls the model.
        k: How many ids of each position; at most the server's `--max-logprobs`.
        vocabulary: The number of the model's tokens.
        timeout_s: How long one request may take, in seconds, the server's start included.
        api_key: Sent as a bearer token. If not given, `OPENAI_API_KEY` of the environment.

    Raises:
        ConfigurationError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str,
        k: int,
        vocabulary: int,
        timeout_s: float = 600.0,
        api_key: str | None = None,
    ) -> None:
        if not check_text("url", url).startswith(("http://", "https://")):
            raise ConfigurationError(f"url is {url!r}; it begins with http:// or https://")
        self._url = f"{url.rstrip('/')}/completions"
        self._model = check_text("model", model)
        self._vocabulary = check_whole_number("vocabulary", vocabulary)
        self._k = check_whole_number("k", k, most=self._vocabulary)
        self._requests = JsonRequests(
            self._url,
            token=os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key,
            timeout_s=check_seconds("timeout_s", timeout_s),
        )

    def __repr__(self) -> str:
        return f"CompletionsTeacher({self._url!r}, model={self._model!r}, k={self._k})"

    @property
    def wire(self) -> dict[str, str | Encoding]:
        """How the knowledge travels: `Teacher(sink, wire=...)`."""
        return {"logits": TopK(self._k)}

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Ask the server about a batch.

        Args:
            batch: The tokens; the class says which keys are read.

        Returns:
            The knowledge: key -> `Ragged` or `Projected`.

        Raises:
            ConfigurationError: The batch has no `input_ids`, or a row has no token.
            AccessDenied: The server does not accept the key.
            TransportError: The server did not answer in time, or with something else.
        """
        rows = _rows_of(batch)
        request = {
            "model": self._model,
            "prompt": rows,
            "max_tokens": 1,
            "temperature": 0,
            "prompt_logprobs": self._k,
        }
        answer = self._requests.post(request)
        found = read_choices(answer, rows, self._k, self._vocabulary, self._url)
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.tensor([token for row in rows for token in row], dtype=torch.int32)
        ends = lengths.cumsum(0) - 1
        kept = torch.ones(len(ids), dtype=torch.bool).index_fill(0, ends, False)
        known = (lengths - 1).numpy()
        states: Any = Ragged(found.states, known)  # type: ignore[arg-type]
        return {
            "input_ids": Ragged(ids, lengths.numpy()),  # type: ignore[arg-type]
            "kept": Ragged(kept, lengths.numpy()),  # type: ignore[arg-type]
            "token_logprobs": Ragged(found.chosen, known),  # type: ignore[arg-type]
            "logits": Projected(states, self._logits, self._vocabulary),
        }

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """`[n, 2 k]`, ids and their log-probabilities -> `[n, vocabulary]`.

        The other ids share what is left, so that their sum is right. Top-k sends nothing else of
        them.
        """
        ids, known = states[:, : self._k].long(), states[:, self._k :]
        others = max(1, self._vocabulary - self._k)
        left = (1 - known.exp().sum(1, keepdim=True)).clamp_min(torch.finfo(known.dtype).eps)
        logits = (left / others).log().repeat(1, self._vocabulary)
        return logits.scatter_(1, ids, known)


def _rows_of(batch: Mapping[str, torch.Tensor]) -> list[list[int]]:
    """The tokens of each row, without padding."""
    if "input_ids" not in batch:
        raise ConfigurationError(f"the batch has {sorted(batch)}, and no input_ids")
    ids = batch["input_ids"]
    for name in ("position_ids", "loss_mask", "labels"):
        if name in batch:
            raise ConfigurationError(
                f"the batch has {name!r}, which a server knows nothing of: it reads each row as one "
                "text, and answers at all of its tokens. Give one text a row, without it"
            )
    if "attention_mask" in batch:
        rows = [row[mask != 0] for row, mask in zip(ids, batch["attention_mask"], strict=True)]
    elif "input_ids.lengths" in batch:
        rows = [row[:length] for row, length in zip(ids, batch["input_ids.lengths"], strict=True)]
    else:
        rows = list(ids)
    found: list[list[int]] = [row.tolist() for row in rows]
    if [] in found:
        raise ConfigurationError(f"row {found.index([])} of the batch has no token")
    return found
