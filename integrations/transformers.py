"""Causal language models of Hugging Face's `transformers` -> knowledge.

What enters is a batch of tokens, what leaves is what the model knows at each position of it. Knows
no sink and no encoding: `Teacher(sink, wire=...)` says how the logits travel.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tutelage import losses
from tutelage.integrations.candidate_log_probs import candidate_log_probs
from tutelage.integrations.model_heads import Head, output_layer
from tutelage.integrations.texts_apart import COMPARED_TOKENS, are_equal
from tutelage.integrations.token_batches import Rows, TokenBatch
from tutelage.producers.stages.projected import Projected
from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError

# Keys of a batch that have a value for each token.
_OF_TOKENS = frozenset(("labels", "loss_mask", "token_type_ids"))
# Keys of a batch that are read here.
_READ = frozenset(("input_ids", "attention_mask", "position_ids", "loss_mask", "labels"))


_KINDS = ("padded", "packed")


class CausalLMTeacher(nn.Module):
    """A causal language model as a teacher: `teacher.serve(CausalLMTeacher(model), loader)`.

    Guarantee: the distribution at position i is that of token i + 1, given the tokens up to i of
    the same text, and is the same however the batch is padded or packed.

    The decoder runs once for each batch. The head is applied later, to chunks of positions, so that
    `[rows, T, vocabulary]` never exists. The head is what the model's own `forward` does behind its
    decoder, with biases, scales and soft caps. The first batches check both promises.

    A batch is a mapping with these keys. Other keys are ignored. One that the model would read, such
    as `pixel_values` or `inputs_embeds`, is an error.

    - `input_ids`: integers `[rows, T]`;
    - `attention_mask`, if it is padded: `[rows, T]`, 0 at padding, on either side;
    - `position_ids`, if rows hold several texts: `[rows, T]`, beginning again with each text. A
      text does not see the others in its row;
    - `loss_mask`, if not all tokens are trained on: `[rows, T]`, nonzero at each token that the
      student should learn to predict, as in `completion_mask`. `labels` are read likewise: -100 is
      not trained on. The knowledge of a marked token is that of the position before it;

    - with `candidates="KEY"`, that key: ids `[rows, T, K]` that the student chose for the token
      behind each position, each once at a position. They are not read where there is no knowledge.

    The knowledge has the keys

    - `input_ids`: int32 `[rows, T]`; ragged, without padding, if there is an `attention_mask`;
    - the logits (`Projected`), one distribution for each of these tokens, in the same shape. With a
      `loss_mask` they are ragged, and `kept`, a bool for each token, says which tokens have one;
    - `hidden`, where asked for: the states that the head is applied to, after the final norm, in
      the logits' shape;
    - with `candidates`, instead of logits: `log_probs`, float32, the log-probabilities of the K
      candidates in place of a distribution, and `tail`, the log of what all other ids have
      together. They are what `losses.Candidates` needs;
    - `position_ids`, int32 in the shape of `input_ids`, if they were given.

    Args:
        model: A causal language model with its head, such as `AutoModelForCausalLM` gives.
        key: The key of the logits; None leaves them out, and so does `candidates`.
        candidates: The key of the ids whose log-probabilities are asked for.
        hidden: Whether to give the hidden states.
        vocabulary: The number of valid entries: `len(tokenizer)` if the head has more rows, which
            many models pad. If not given, all rows of the head.
        carry: Keys of the batch that go along unchanged, such as a sample id. Those that belong to
            the tokens, `labels`, `loss_mask` and `token_type_ids` (if the model does not read
            them), lie as `input_ids` do: without padding.

    Raises:
        ConfigurationError: The model is no causal language model of `transformers`, it would give
            neither logits nor hidden states, or the vocabulary is larger than the head.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        key: str | None = "logits",
        candidates: str | None = None,
        hidden: bool = False,
        vocabulary: int | None = None,
        carry: Iterable[str] = (),
    ) -> None:
        super().__init__()
        rows = _check_model(model)
        if key is None and candidates is None and not hidden:
            raise ConfigurationError("with key=None and hidden=False there is no knowledge to give")
        if vocabulary is not None and check_whole_number("vocabulary", vocabulary) > rows:
            raise ConfigurationError(
                f"vocabulary is {vocabulary:,}, and the model's head has {rows:,} rows, all of "
                "which are tokens then; leave vocabulary out"
            )
        self.model = model
        self.vocabulary = rows if vocabulary is None else vocabulary
        self._key = key if candidates is None else None
        self._candidates = candidates
        self._gives_hidden = hidden
        self._carry = tuple(carry)
        self._model_takes = frozenset(inspect.signature(model.forward).parameters)
        # Kinds of batches whose first one is still to come: kernels treat one row and several
        # differently.
        self._unchecked = {(kind, several) for kind in _KINDS for several in (False, True)}
        self._is_head_checked = False

    def forward(self, batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Compute the knowledge of one batch.

        Args:
            batch: The tokens; the class says which keys are read.

        Returns:
            The knowledge: key -> tensor, `Ragged` or `Projected`.

        Raises:
            ConfigurationError: The batch has no `input_ids`, masks of other shapes, or a key that
                `carry` or `candidates` names is missing; or the model cannot keep the guarantee.
        """
        tokens = TokenBatch(batch)
        self._check_keys(batch)
        texts = Rows.where(None if tokens.mask is None else tokens.real())
        trained = tokens.trained()
        known = texts if trained is None else Rows.where(trained)
        asked = self._asked(batch, tokens)
        place = self._text_to_check(tokens)
        states = self._states(tokens)
        if not self._is_head_checked:
            self._check_head(tokens)
        if place is not None:
            self._check_text(tokens, states, place)

        knowledge: dict[str, Any] = {name: _of(batch, name, "carry") for name in self._carry}
        for name in _OF_TOKENS & knowledge.keys():
            knowledge[name] = texts.of(knowledge[name])
        knowledge["input_ids"] = texts.of(tokens.ids.int())
        if tokens.positions is not None:
            knowledge["position_ids"] = texts.of(tokens.positions.int())
        if trained is not None:
            knowledge["kept"] = texts.of(trained)
        hidden = known.of(states)
        if self._gives_hidden:
            knowledge["hidden"] = hidden
        if asked is not None:
            knowledge |= self._answers(states, asked, known)
        if self._key is not None:
            head = Head(self.model, self.vocabulary)
            knowledge[self._key] = Projected(hidden, head, self.vocabulary)
        return knowledge

    def _asked(self, batch: Mapping[str, torch.Tensor], tokens: TokenBatch) -> torch.Tensor | None:
        """The ids that are asked for, `[rows, T, K]`; None if nothing is."""
        name = self._candidates
        if name is None:
            return None
        ids = _of(batch, name, "candidates")
        if ids.dim() != 3 or ids.shape[:2] != tokens.ids.shape or ids.is_floating_point():
            raise ConfigurationError(
                f"{name} is {ids.dtype} {list(ids.shape)}, and input_ids {list(tokens.ids.shape)}; "
                "give integers [rows, T, K]"
            )
        return ids

    def _answers(self, states: torch.Tensor, asked: torch.Tensor, known: Rows) -> dict[str, Any]:
        """The log-probabilities of the ids at the positions that are known, and the tails."""
        hidden, ids = states.flatten(0, 1), asked.flatten(0, 1)
        if known.kept is not None:
            hidden, ids = hidden[known.kept], ids[known.kept]
        head = Head(self.model, self.vocabulary)
        found = candidate_log_probs(hidden, head, ids, self.vocabulary)
        return {
            name: known.shaped(values, states.shape[:2])
            for name, values in zip(("log_probs", "tail"), found, strict=True)
        }

    def head(self) -> losses.Head:
        """Return the model's head, for `write_head` and for losses from hidden states.

        Returns:
            The head. Its tensors are the model's own, without gradients.

        Raises:
            ConfigurationError: The model computes its logits in another way.
        """
        return losses.Head.from_model(self.model, vocabulary=self.vocabulary).detached()

    def _states(self, tokens: TokenBatch) -> torch.Tensor:
        """The decoder's last hidden states `[rows, T, H]`."""
        given: dict[str, Any] = {}
        takes_positions = _takes(self.model.base_model, "position_ids")
        if tokens.positions is not None:
            if not takes_positions:
                raise ConfigurationError(
                    f"{type(self.model).__name__} takes no position_ids, so texts of one row would "
                    "see each other; give one text a row, padded, with attention_mask"
                )
            # Texts of one row are told apart by their positions, and only without a mask.
            given["position_ids"] = tokens.positions_apart()
        elif tokens.mask is not None:
            given["attention_mask"] = tokens.mask
            if takes_positions:
                # Padding on the left would move the text's positions.
                given["position_ids"] = (tokens.real().long().cumsum(1) - 1).clamp(min=0)
        return self._decode(tokens.ids, **given)

    def _decode(self, ids: torch.Tensor, **given: Any) -> torch.Tensor:
        decoded = self.model.base_model(input_ids=ids, use_cache=False, **given)
        states = decoded.last_hidden_state
        assert isinstance(states, torch.Tensor), "what every decoder of transformers returns"
        return states

    def _text_to_check(self, tokens: TokenBatch) -> tuple[int, int, int] | None:
        """A text with something before it in its row, of the first padded and packed batches."""
        if (tokens.kind, len(tokens.ids) > 1) not in self._unchecked:
            return None
        return tokens.inner_text(COMPARED_TOKENS)

    def _check_keys(self, batch: Mapping[str, torch.Tensor]) -> None:
        """Check that the model would read nothing that is not read here."""
        unread = (batch.keys() & self._model_takes) - _READ
        if unread:
            raise ConfigurationError(
                f"the batch has {sorted(unread)}, which {type(self.model).__name__} reads and "
                "CausalLMTeacher does not: its knowledge would be of something else. Leave them out, "
                "or return the model's logits from a module of your own"
            )

    def _check_head(self, tokens: TokenBatch) -> None:
        """Compare the head with the model's own logits of the first tokens."""
        few = tokens.ids[:1, :COMPARED_TOKENS]
        own = self.model(input_ids=few, use_cache=False, return_dict=True).logits[0]
        Head(self.model, self.vocabulary).check(self._decode(few)[0], own)
        self._is_head_checked = True

    def _check_text(
        self, tokens: TokenBatch, states: torch.Tensor, place: tuple[int, int, int]
    ) -> None:
        """Compare the states of a text in its row with those that it has alone."""
        row, start, end = place
        alone = self._decode(tokens.ids[row : row + 1, start:end])[0]
        if not are_equal(self.model, states[row, start:end], alone, exact=True):
            remedy = "on the right" if tokens.kind == "padded" else "instead, one text a row"
            raise ConfigurationError(
                f"{type(self.model).__name__} lets a text see what is before it in its row of a "
                f"{tokens.kind} batch (row {row}, position {start}); pad {remedy}, or load it with "
                "attn_implementation='sdpa'"
            )
        self._unchecked.discard((tokens.kind, len(tokens.ids) > 1))


def _check_model(model: Any) -> int:
    """The number of rows of the model's head."""
    if not isinstance(model, PreTrainedModel):
        raise ConfigurationError(
            f"the model is a {type(model).__name__}; give a PreTrainedModel of transformers "
            "(of a PEFT model with adapters in its layers, such as LoRA, its get_base_model(); "
            "prompts that PEFT learned are not in that)"
        )
    head = output_layer(model)
    if head is None or model.base_model is model:
        raise ConfigurationError(
            f"{type(model).__name__} has no language-model head; load it with AutoModelForCausalLM"
        )
    return int(head.weight.shape[0])


def _of(batch: Mapping[str, torch.Tensor], name: str, argument: str) -> torch.Tensor:
    """The value of a key that an argument names."""
    if name not in batch:
        raise ConfigurationError(f"{argument} names {name!r}, and the batch has {sorted(batch)}")
    return batch[name]


def _takes(module: nn.Module, name: str) -> bool:
    return name in inspect.signature(module.forward).parameters
