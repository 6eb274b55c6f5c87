"""Rows of sampled and top-k keys -> one `SparseTarget` per batch, merged by adding counts.

Draws of several teachers are added as integers, so the result does not depend on their order, and
is an unbiased estimate of the (weighted) mean of their distributions. No I/O, threads or clocks.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from tutelage.consumers.sparse_target import SparseTarget
from tutelage.consumers.stages.ragged import joined
from tutelage.consumers.stages.strategies import Strategy
from tutelage.schemas.encoded_rows import SampledRows, TopKVectors, decode_column
from tutelage.schemas.encodings import Sampled, TopK
from tutelage.schemas.errors import CorruptData, LengthMismatch, MergeError
from tutelage.schemas.record import Array, Column, KeySpec, Ragged

# Weights are taken as ratios of whole numbers with denominators up to this, so that weighted counts
# are integers.
_LARGEST_DENOMINATOR = 10_000
_MOST_DRAWS = 2**31 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """What the teachers of a key have in common.

    Args:
        size: The size of the vocabulary.
        temperature: The teachers' logits were divided by it.
        tokenizer: The fingerprint of their tokenizer; empty if none of them gave it.
        tokenizer_of_all: Whether all of them gave it.
    """

    size: int
    temperature: float
    tokenizer: str
    tokenizer_of_all: bool


def is_sparse(spec: KeySpec) -> bool:
    """Whether a key arrives as a `SparseTarget`."""
    return isinstance(spec.encoding, (Sampled, TopK))


def common_vocabulary(key: str, names: Sequence[str], specs: Sequence[KeySpec]) -> Vocabulary:
    """Check that teachers' distributions are over one vocabulary at one temperature.

    Raises:
        MergeError: They are not; the message names both.
    """
    sizes = [spec.shape[-1] for spec in specs]
    encodings = [spec.encoding for spec in specs]
    heats = [each.temperature for each in encodings if isinstance(each, (Sampled, TopK))]
    prints = [each.tokenizer for each in encodings if isinstance(each, (Sampled, TopK))]
    _check_equal(key, "a vocabulary of", names, sizes)
    _check_equal(key, "temperature", names, heats)
    known = [(name, each) for name, each in zip(names, prints, strict=True) if each]
    _check_equal(key, "tokenizer", [name for name, _ in known], [each for _, each in known])
    return Vocabulary(
        size=sizes[0],
        temperature=heats[0],
        tokenizer=known[0][1] if known else "",
        tokenizer_of_all=not known or all(prints),
    )


def _check_equal(key: str, what: str, names: Sequence[str], values: Sequence[object]) -> None:
    if len(set(values)) > 1:
        each = ", ".join(f"{what} {value} of {n}" for n, value in zip(names, values, strict=True))
        raise MergeError(
            f"key {key!r} has {each}: their distributions are not over the same ids, or not of the "
            "same softmax, and cannot be merged; use first, or have the teachers agree"
        )


def check_sparse_strategy(key: str, strategy: Strategy, specs: Sequence[KeySpec], who: str) -> None:
    """Check that encoded distributions of teachers can be merged with a strategy.

    Raises:
        MergeError: They cannot; the message says what can be done.
    """
    if len(specs) == 1 or strategy.rule.chooses:
        return
    if any(isinstance(spec.encoding, TopK) for spec in specs):
        raise MergeError(
            f"key {key!r} comes from {who}: top-k lists cannot be merged, since an id that one "
            "teacher left out has an unknown probability there; have the teachers send "
            "sampled:DRAWS, whose counts are added, or use first"
        )
    if not all(isinstance(spec.encoding, Sampled) for spec in specs):
        raise MergeError(
            f"key {key!r} comes from {who}: sampled and dense distributions cannot be merged; have "
            "the teachers send the same, or use first"
        )
    if not strategy.rule.averages:
        raise MergeError(
            f"key {key!r} comes from {who}: {strategy.name} is not defined for sampled "
            "distributions; use mean, weighted_mean or first"
        )


class SparseKey:
    """Decodes one key's distributions and merges them into `SparseTarget`s.

    Args:
        key: The key.
        names: The names of the teachers that have it, for messages.
        specs: Its description at each of them.
        strategy: How they are merged.
        pad_left: Whether shorter rows are padded on the left.

    Raises:
        MergeError: They cannot be merged so.
    """

    def __init__(
        self,
        key: str,
        names: Sequence[str],
        specs: Sequence[KeySpec],
        strategy: Strategy,
        *,
        pad_left: bool,
    ) -> None:
        count = 1 if strategy.rule.chooses else len(specs)
        self._key = key
        self._names = list(names[:count])
        self._specs = list(specs[:count])
        self._vocabulary = common_vocabulary(key, self._names, self._specs)
        #: By which each teacher's counts are multiplied before they are added; 0 if not used.
        self._factors = count_factors(key, strategy, self._specs)
        self._pad_left = pad_left
        self.ragged = self._specs[0].ragged
        #: How many of the key's teachers are read.
        self.teachers = count

    def target(self, columns: Sequence[Sequence[Column]], first_row: int) -> SparseTarget:
        """Decode and merge the rows of one batch.

        Args:
            columns: Per teacher that is read, its rows as they are stored, in pieces.
            first_row: The number of the first row in its pass, for messages.

        Raises:
            CorruptData: Bytes are not what their encoding says.
            LengthMismatch: Rows of two teachers have different numbers of positions.
        """
        if isinstance(self._specs[0].encoding, TopK):
            return self._top(columns[0], first_row)
        rows = [self._sampled(teacher, pieces, first_row) for teacher, pieces in enumerate(columns)]
        for teacher, other in enumerate(rows[1:], start=1):
            if not np.array_equal(rows[0].lengths, other.lengths):
                row = int(np.flatnonzero(rows[0].lengths != other.lengths)[0])
                raise LengthMismatch(
                    f"key {self._key!r}, row {first_row + row}: {self._names[0]} has "
                    f"{rows[0].lengths[row]} positions, {self._names[teacher]} "
                    f"{other.lengths[row]}; rows of different length cannot be merged"
                )
        draws = _draws(self._specs)
        used = [
            (each, factor, factor * count)
            for each, factor, count in zip(rows, self._factors, draws, strict=True)
            if factor
        ]
        ids, counts, entries, entropy = _added(used, self._vocabulary.size)
        return self._made(
            ids=torch.from_numpy(ids),
            counts=torch.from_numpy(counts),
            entries=torch.from_numpy(entries),
            entropy=torch.from_numpy(entropy),
            lengths=torch.from_numpy(rows[0].lengths),
            draws=sum(share for _, _, share in used),
        )

    def _decode(
        self, teacher: int, pieces: Sequence[Column], first_row: int
    ) -> tuple[SampledRows | TopKVectors | Array, Column]:
        """A teacher's rows decoded, and as they are stored."""
        column = joined(pieces)
        spec = self._specs[teacher]
        try:
            return decode_column(spec, column), column
        except ValueError as error:
            rows = len(column.lengths if isinstance(column, Ragged) else column)
            raise CorruptData(
                f"key {self._key!r}, rows {first_row} to {first_row + rows - 1} of "
                f"{self._names[teacher]}: {error}; this is no {spec.wire} of a vocabulary of "
                f"{self._vocabulary.size:,}, although its checksum is right"
            ) from error

    def _sampled(self, teacher: int, pieces: Sequence[Column], first_row: int) -> SampledRows:
        found, _ = self._decode(teacher, pieces, first_row)
        assert isinstance(found, SampledRows), "the key is sampled"
        return found

    def _top(self, pieces: Sequence[Column], first_row: int) -> SparseTarget:
        found, column = self._decode(0, pieces, first_row)
        assert isinstance(found, TopKVectors), "the key is top-k"
        positions = math.prod(self._specs[0].shape[:-1])
        lengths = (
            column.lengths
            if isinstance(column, Ragged)
            else np.full(len(column), positions, np.int64)
        )
        tail = found.tail.reshape(-1)
        return self._made(
            ids=torch.from_numpy(found.ids.reshape(-1)),
            log_probs=torch.from_numpy(found.log_probs.reshape(-1)),
            tail=torch.from_numpy(tail),
            entries=torch.full((len(tail),), found.ids.shape[-1], dtype=torch.int64),
            lengths=torch.from_numpy(lengths),
        )

    def _made(self, **parts: Any) -> SparseTarget:
        return SparseTarget(
            **parts,
            vocabulary=self._vocabulary.size,
            temperature=self._vocabulary.temperature,
            tokenizer=self._vocabulary.tokenizer,
            tokenizer_of_all=self._vocabulary.tokenizer_of_all,
            shape=self._specs[0].shape[:-1],
            pad_left=self._pad_left,
        )


def count_factors(key: str, strategy: Strategy, specs: Sequence[KeySpec]) -> list[int]:
    """Return the whole number by which each teacher's counts are multiplied before they are added.

    Teacher m's counts add up to N_m, so factors in the ratio of w_m / N_m give it weight w_m.

    Args:
        key: The key, for messages.
        strategy: The strategy, with its weights.
        specs: The key's description at each teacher. One teacher has factor 1.

    Raises:
        MergeError: The weights are negative, no ratios of small whole numbers, or their counts
            would not fit 32 bits.
    """
    if len(specs) == 1:
        return [1]
    draws = _draws(specs)
    ratios: list[Fraction] = []
    for weight, count in zip(strategy.weights or (1.0,) * len(specs), draws, strict=True):
        ratio = Fraction(weight).limit_denominator(_LARGEST_DENOMINATOR)
        if weight < 0 or abs(float(ratio) - weight) > 1e-9 * abs(weight):
            raise MergeError(
                f"key {key!r}: the weight {weight} of a sampled distribution must be 0 or more, "
                f"and a ratio of whole numbers up to {_LARGEST_DENOMINATOR:,}, such as 0.35"
            )
        ratios.append(ratio / count)
    scale = math.lcm(*(ratio.denominator for ratio in ratios))
    factors = [int(ratio * scale) for ratio in ratios]
    divisor = math.gcd(*factors)
    factors = [factor // divisor for factor in factors]
    if sum(map(operator.mul, factors, draws)) > _MOST_DRAWS:
        raise MergeError(
            f"key {key!r}: with these weights and draws the counts do not fit 32 bits; choose "
            "weights with fewer digits"
        )
    return factors


def _draws(specs: Sequence[KeySpec]) -> list[int]:
    return [spec.encoding.draws for spec in specs if isinstance(spec.encoding, Sampled)]


def _added(
    used: Sequence[tuple[SampledRows, int, int]], vocabulary: int
) -> tuple[Array, Array, Array, Array]:
    """Add the counts of teachers, each given with its factor and its share of the draws.

    Returns:
        The ids, ascending in each position, their counts, the entries of each position, and the
        mean of the entropies.
    """
    first = used[0][0]
    if len(used) == 1:
        return first.ids, first.counts, first.entries, first.entropy
    positions = len(first.entries)
    # An id at a position is one number.
    numbers = np.concatenate(
        [
            np.repeat(np.arange(positions) * vocabulary, each.entries) + each.ids
            for each, _, _ in used
        ]
    )
    counts = np.concatenate([each.counts * factor for each, factor, _ in used])
    order = np.argsort(numbers, kind="stable")
    distinct, starts = np.unique(numbers[order], return_index=True)
    summed = np.add.reduceat(counts[order], starts) if len(starts) else counts
    # Sums of float16 values in float64 are exact, so the order of the teachers does not matter.
    total = sum(share for _, _, share in used)
    entropy = sum(share * each.entropy.astype(np.float64) for each, _, share in used) / total
    return (
        (distinct % vocabulary).astype(np.int32),
        summed.astype(np.int32),
        np.bincount(distinct // vocabulary, minlength=positions).astype(np.int64),
        np.asarray(entropy, np.float32),
    )
