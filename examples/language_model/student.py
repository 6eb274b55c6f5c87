"""The student: a small Llama with the teacher's tokenizer. How it is trained, and measured."""

from __future__ import annotations

import copy
import itertools
import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tutelage.examples.language_model.sizes import Size
from tutelage.losses import Head, forward_kl

Batch = dict[str, Any]
#: The student's logits `[rows, context, vocabulary]` and a batch of knowledge -> the loss.
Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
# The share of the steps in which the learning rate rises.
_WARM_UP = 0.1
_HEAD_WIDTH = 64
# Bins of confidence, as in Guo et al. 2017 (arXiv 1706.04599).
_BINS = 15


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A student and what its training took.

    Args:
        model: The student.
        losses: The loss of each step.
        tokens: How many tokens it was trained on, repetitions counted.
        seconds: How long that took, reading included.
    """

    model: PreTrainedModel = field(repr=False)
    losses: list[float] = field(repr=False)
    tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """What a student is worth on text that was held out.

    Args:
        cross_entropy: Of the true tokens, in nats.
        kl: KL(teacher || student), in nats, over the whole vocabulary.
        acceptance: The share of the student's tokens that the teacher would accept in speculative
            decoding: the sum of min(p, q), averaged (Leviathan et al. 2023, arXiv 2211.17192).
        calibration_error: The expected difference of confidence and accuracy of the most probable
            token, in 15 bins.
    """

    cross_entropy: float
    kl: float
    acceptance: float
    calibration_error: float


def made(size: Size, teacher: PreTrainedModel, seed: int) -> PreTrainedModel:
    """Return a new student.

    Args:
        size: How wide and deep it is.
        teacher: A model of the kind of Llama.
        seed: Decides its random weights, or which of the teacher's layers it begins with.
    """
    if size.hidden is None:
        return _shortened(teacher, size.layers, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=teacher.config.vocab_size,
                hidden_size=size.hidden,
                intermediate_size=3 * size.hidden,
                num_hidden_layers=size.layers,
                num_attention_heads=max(1, size.hidden // _HEAD_WIDTH),
                num_key_value_heads=max(1, size.hidden // _HEAD_WIDTH),
                max_position_embeddings=size.context,
                tie_word_embeddings=True,
            )
        )


def _shortened(teacher: PreTrainedModel, layers: int, seed: int) -> PreTrainedModel:
    """Return a copy of the teacher with its first and last layer and some between, as DistilBERT
    was begun with layers of its teacher (Sanh et al. 2019, arXiv 1910.01108)."""
    student = copy.deepcopy(teacher)
    # Torch types the parts of a module loosely.
    model: Any = student.model
    count = len(model.layers)
    choices = list(itertools.combinations(range(1, count - 1), layers - 2))
    random.Random(0).shuffle(choices)
    # Seeds differ in their layers as long as there are others.
    between = choices[seed % len(choices)]
    model.layers = torch.nn.ModuleList(
        [model.layers[number] for number in (0, *between, count - 1)]
    )
    for number, layer in enumerate(model.layers):
        layer.self_attn.layer_idx = number
    student.config.num_hidden_layers = layers
    return student


def train(
    model: PreTrainedModel,
    passes: Callable[[], Iterable[Batch]],
    loss_of: Loss,
    *,
    size: Size,
    device: str = "cpu",
    last_positions: int = 0,
) -> Trained:
    """Train a student for the size's number of steps. The order of the text is that of the files.

    Args:
        model: The student.
        passes: Returns the batches of one or more passes over the text; called again at their
            end.
        loss_of: The loss.
        size: The sizes.
        device: Where to train.
        last_positions: Compute the logits of only this many positions at the end of each row; 0 for
            all.
    """
    model.to(device).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=size.learning_rate, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, size.steps))
    losses: list[torch.Tensor] = []
    tokens, began = 0, time.perf_counter()
    while len(losses) < size.steps:
        for batch in passes():
            here = {key: value.to(device, non_blocking=True) for key, value in batch.items()}
            logits = model(
                input_ids=here["input_ids"], use_cache=False, logits_to_keep=last_positions
            ).logits
            loss = loss_of(logits, here)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            tokens += here["input_ids"].numel()
            losses.append(loss.detach())
            if len(losses) == size.steps:
                break
    found = torch.stack(losses).tolist()
    seconds = time.perf_counter() - began
    return Trained(model=model.train(False), losses=found, tokens=tokens, seconds=seconds)


@torch.no_grad()
def measure(
    model: PreTrainedModel, held_out: Iterable[Batch], head: Head, *, device: str = "cpu"
) -> Scores:
    """Measure a student.

    Args:
        model: The student.
        held_out: Batches with `input_ids`, `targets` and the teacher's `hidden` states.
        head: The teacher's head.
        device: Where to compute.
    """
    head = head.to(device)
    sums = torch.zeros(3, dtype=torch.float64)
    confidences, hits = [], []
    for batch in held_out:
        logits = model(input_ids=batch["input_ids"].to(device), use_cache=False).logits
        logits = logits.flatten(0, 1).float()
        targets = batch["targets"].to(device).long().flatten()
        teacher = head.logits(batch["hidden"].to(device)).flatten(0, 1)
        p, q = logits.softmax(-1), teacher.softmax(-1)
        sums += torch.stack(
            [
                torch.nn.functional.cross_entropy(logits, targets, reduction="sum"),
                forward_kl(logits, teacher, reduction="sum"),
                torch.minimum(p, q).sum(),
            ]
        ).cpu()
        best = p.max(-1)
        confidences.append(best.values.cpu())
        hits.append((best.indices == targets).cpu())
    confidence, hit = torch.cat(confidences), torch.cat(hits)
    cross_entropy, kl, acceptance = (sums / len(hit)).tolist()
    return Scores(
        cross_entropy=cross_entropy,
        kl=kl,
        acceptance=acceptance,
        calibration_error=_calibration_error(confidence, hit),
    )


def _calibration_error(confidence: torch.Tensor, hit: torch.Tensor) -> float:
    bins = (confidence * _BINS).long().clamp(max=_BINS - 1)
    gaps = torch.zeros(_BINS).index_add_(0, bins, confidence - hit.float())
    return float(gaps.abs().sum()) / len(hit)


def _rate(step: int, steps: int) -> float:
    """The share of the largest learning rate: a linear rise, then half a cosine."""
    rise = max(1, int(_WARM_UP * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
