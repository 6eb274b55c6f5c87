"""Token ids of a text -> what a teacher wrote of it, from knowledge files. Knows no trainer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch

from tutelage import Sampled, SparseTarget
from tutelage.consumers.random_access.row_dataset import RowDataset
from tutelage.consumers.random_access.rows import Row
from tutelage.schemas.errors import ConfigurationError

IDS = "input_ids"
# Rows of sampled logits that are read at once to build the index: 0.10 ms a row of 128 tokens, on a
# busy core, where reading them one by one takes 1.7 ms.
_GROUP_ROWS = 32
# Messages show so many tokens of a text.
_SHOWN_TOKENS = 8


class StoredTexts:
    """The rows of knowledge files, found by their token ids.

    Guarantee: what is given for a text is what a teacher wrote of exactly these tokens.

    All rows are read once to build the index, which takes about 150 bytes a row of memory.

    Args:
        knowledge: A `KnowledgeFile` or `KnowledgeFiles` with the key `input_ids`, one text a row.
        repeated: What is done where a text occurs twice with different knowledge: `"error"`, or
            `"first"` to take the first row.

    Raises:
        ConfigurationError: A row holds several texts, or a text occurs twice.
        DataError: A record is damaged.
    """

    def __init__(self, knowledge: RowDataset, *, repeated: Literal["error", "first"]) -> None:
        self._knowledge = knowledge
        self._rows: dict[bytes, int] = {}
        for number, row in enumerate(_all_rows(knowledge)):
            _check_single(row, f"row {number} of {knowledge}")
            first = self._rows.setdefault(_digest(row[IDS]), number)
            if first != number and repeated == "error" and not _equal(knowledge[first], row):
                raise ConfigurationError(
                    f"{knowledge} has the text {_shown(row[IDS])} in rows {first} and {number}, "
                    "with different knowledge; remove one, give teachers of the same texts to "
                    'KnowledgeFiles.merged, or take the first with repeated="first"'
                )

    def of(self, texts: Sequence[torch.Tensor]) -> list[Row]:
        """Return what is known of some texts.

        Args:
            texts: The token ids of each, integers `[length]`, without padding.

        Returns:
            A row for each text.

        Raises:
            ConfigurationError: The files do not have a text.
            DataError: A record is damaged.
        """
        numbers = [self._rows.get(_digest(text), -1) for text in texts]
        if -1 in numbers:
            row = numbers.index(-1)
            raise ConfigurationError(
                f"row {row} of the batch, {_shown(texts[row])}, is no text of {self._knowledge}. "
                "Texts are found by all their token ids: train and evaluate on the teacher's texts "
                "alone, made with the same tokenizer, chat template and max_length (a collator "
                "that truncates makes another text). Texts that the student generates (lmbda "
                "above 0) are in no file"
            )
        return list(self._knowledge.__getitems__(numbers))


def _all_rows(knowledge: RowDataset) -> Iterator[Row]:
    """All rows, read in groups where rows are small."""
    specs = knowledge.description.values()
    small = all(len(spec.shape) < 2 or isinstance(spec.encoding, Sampled) for spec in specs)
    group = _GROUP_ROWS if small else 1
    for start in range(0, len(knowledge), group):
        yield from knowledge.__getitems__(range(start, min(start + group, len(knowledge))))


def _digest(ids: torch.Tensor) -> bytes:
    """What stands for a text: two that differ have different ones."""
    values = np.ascontiguousarray(ids.numpy(), dtype="<i8")
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def _check_single(row: Row, where: str) -> None:
    """Check that a row holds one text."""
    if "position_ids" in row and bool((row["position_ids"].diff() != 1).any()):
        raise ConfigurationError(
            f"{where} holds several texts, packed; have the teacher write one text a row"
        )


def _equal(first: Row, second: Row) -> bool:
    return all(_same(first[key], second[key]) for key in first)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, SparseTarget):
        pairs = zip(first.tensors().values(), second.tensors().values(), strict=True)
        return all(torch.equal(one, other) for one, other in pairs)
    return torch.equal(first, second)


def _shown(ids: torch.Tensor) -> str:
    """The beginning of a text, for messages."""
    more = ", ..." if len(ids) > _SHOWN_TOKENS else ""
    return f"[{', '.join(map(str, ids[:_SHOWN_TOKENS].tolist()))}{more}] ({len(ids)} tokens)"
