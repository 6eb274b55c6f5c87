"""What students learn from: each file of knowledge, and the loss that belongs to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tutelage import FileSource, Source, SparseTarget, Student
from tutelage.examples.language_model.student import Batch
from tutelage.losses import Head, Projection, forward_kl

#: The batch size -> the batches of all passes that are written.
Passes = Callable[[int], Iterable[Batch]]
# The bytes of an entry and, with 50 draws, of a position in the format of `Sampled`, for the
# baseline's draws: 16 bits an id, and 49 bits and the entropy.
_ENTRY_BYTES, _POSITION_BYTES = 2, 9


#: The names of the teachers: the model as it is, and two that were trained further on a half of the
#: text.
BASE, FIRST, SECOND = "base", "first", "second"
#: The variant of the first teacher alone.
FIRST_HALF = "first half"


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One way to learn.

    Args:
        name: Its name in the results.
        encoding: The encoding that is read; see `teaching.wires`.
        loss: Logits, a batch and the teacher's `head` -> the loss.
        teachers: Whose knowledge it is; that of several is merged.
    """

    name: str
    encoding: str
    loss: Callable[..., torch.Tensor]
    teachers: tuple[str, ...] = (BASE,)

    @property
    def files(self) -> list[str]:
        """The names of the files that are read."""
        return [f"{teacher}-{self.encoding}" for teacher in self.teachers]


def cross_entropy(logits: torch.Tensor, batch: Batch, *, head: Head) -> torch.Tensor:
    """The loss without a teacher: the true tokens."""
    targets = batch["targets"].long().flatten()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)


def from_logits(
    logits: torch.Tensor, batch: Batch, *, head: Head, tail: str = "ghost"
) -> torch.Tensor:
    """KL(teacher || student), of whatever `logits` hold."""
    return forward_kl(logits, batch["logits"], tail=tail)


def from_hidden(logits: torch.Tensor, batch: Batch, *, head: Head) -> torch.Tensor:
    """KL(teacher || student); the teacher's logits are computed from its hidden states."""
    return forward_kl(logits, Projection(batch["hidden"], head.to(logits.device)))


_NO_TAIL = partial(from_logits, tail="ignore")
#: What is compared, in the order of the tables.
ALL = (
    Variant(name="cross-entropy", encoding="systematic25", loss=cross_entropy),
    Variant(name="dense", encoding="dense", loss=from_logits),
    Variant(name="top-12", encoding="topk12", loss=_NO_TAIL),
    Variant(name="top-12 with tail", encoding="topk12", loss=from_logits),
    Variant(name="top-50", encoding="topk50", loss=_NO_TAIL),
    Variant(name="top-50 with tail", encoding="topk50", loss=from_logits),
    Variant(name="multinomial 50", encoding="hidden32", loss=from_logits),
    Variant(name="systematic 25", encoding="systematic25", loss=from_logits),
    Variant(name="systematic 50", encoding="systematic50", loss=from_logits),
    Variant(name="systematic 200", encoding="systematic200", loss=from_logits),
    Variant(name="hidden int8", encoding="hidden8", loss=from_hidden),
    # The students of one teacher get as many draws as those of two.
    Variant(name=FIRST_HALF, encoding="systematic50", loss=from_logits, teachers=(FIRST,)),
    Variant(name="second half", encoding="systematic50", loss=from_logits, teachers=(SECOND,)),
    Variant(
        name="both merged", encoding="systematic25", loss=from_logits, teachers=(FIRST, SECOND)
    ),
)


def passes_of(sources: Callable[[], list[Source]]) -> Passes:
    """Return a function that reads what one source holds, or several, merged by their mean.

    Args:
        sources: Makes the sources.
    """

    def read(batch_size: int) -> Iterator[Batch]:
        given = sources()
        merge: dict[str, Any] = {}
        if len(given) > 1:
            merge = {"logits": "mean", "input_ids": "same", "targets": "same"}
        student = Student(merge)
        for source in given:
            student.register_teacher(source)
        with student:
            for _ in range(student.passes):
                yield from student.knowledge(batch_size, drop_last=True)

    return read


def file_passes(paths: Iterable[Path]) -> Passes:
    """As `passes_of`, from files."""
    return passes_of(lambda: [FileSource(path) for path in paths])


def multinomial(logits: torch.Tensor, draws: int, generator: torch.Generator) -> SparseTarget:
    """Draw independently with replacement, as in "Sparse Logit Sampling": the baseline.

    Args:
        logits: `[rows, T, vocabulary]`.
        draws: How many draws a position gets.
        generator: Where the randomness comes from.
    """
    rows, length, vocabulary = logits.shape
    flat = logits.flatten(0, 1).float().softmax(-1)
    drawn = torch.multinomial(flat, draws, replacement=True, generator=generator).sort(-1).values
    owners = torch.arange(rows * length, device=logits.device).repeat_interleave(draws)
    both, counts = torch.unique_consecutive(
        owners * vocabulary + drawn.flatten(), return_counts=True
    )
    return SparseTarget(
        ids=(both % vocabulary).int(),
        counts=counts.int(),
        entries=torch.bincount(both // vocabulary, minlength=rows * length),
        lengths=torch.full((rows,), length, device=logits.device),
        vocabulary=vocabulary,
        draws=draws,
        entropy=torch.special.entr(flat).sum(-1),
        shape=(length,),
    )


class MultinomialPasses:
    """Draws at each position of a file of hidden states, anew in each pass, once for all students.

    Args:
        states: Reads one pass of hidden states.
        head: The teacher's head.
        draws: How many draws a position gets.
        passes: How many passes to draw.
        device: Where to draw.
    """

    def __init__(
        self, states: Passes, head: Head, draws: int, *, passes: int = 1, device: str = "cpu"
    ) -> None:
        self._states = states
        self._passes = passes
        self._head = head.to(device)
        self._draws = draws
        self._device = device
        self._batches: list[Batch] = []
        self.bytes_per_token = 0.0

    def __call__(self, batch_size: int) -> list[Batch]:
        if not self._batches:
            generator = torch.Generator(self._device).manual_seed(0)
            self._batches = [
                self._drawn(batch, generator)
                for _ in range(self._passes)
                for batch in self._states(batch_size)
            ]
            targets = [batch["logits"] for batch in self._batches]
            entries = sum(len(target.ids) for target in targets)
            positions = sum(target.positions for target in targets)
            self.bytes_per_token = _POSITION_BYTES + _ENTRY_BYTES * entries / positions
        return self._batches

    def _drawn(self, batch: Batch, generator: torch.Generator) -> Batch:
        logits = self._head.logits(batch["hidden"].to(self._device))
        kept = {key: batch[key].clone() for key in ("input_ids", "targets")}
        return {**kept, "logits": multinomial(logits, self._draws, generator)}
