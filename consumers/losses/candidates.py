"""`Candidates`: a teacher's log-probabilities of ids that the student chose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tutelage.schemas.arguments import check_whole_number
from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a teacher says of some ids at each position, and of all others together.

    The student chooses the ids, such as its own most probable ones, and asks. So the target of a
    position is a distribution over K + 1 classes: the K candidates, and one for all other ids. Of
    the student the same classes are compared. A divergence of classes is at most that of the ids
    themselves (log sum inequality: Cover and Thomas 2006, theorem 2.7.1), and is near to it where
    the candidates have almost all of the student's probability.

    Or the student draws the ids from its own distribution (`draw_candidates`), and gives what it
    thought of them then. `reverse_kl` is then an unbiased estimate over the whole vocabulary, and
    no class for other ids is needed.

    Args:
        ids: Integers `[..., K]`: the candidates, each once at a position unless they were drawn. K
            is at least 1.
        log_probs: The teacher's log-probabilities of them `[..., K]`, of a floating dtype.
        tail: `[...]`, of a floating dtype: the log of the teacher's probability of all other ids;
            None if the ids were drawn.
        drawn: The student's log-probabilities of the ids `[..., K]`, of a floating dtype, when it
            drew them; None if it chose them in another way.

    Raises:
        ConfigurationError: Shapes, dtypes or devices do not fit together.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    tail: torch.Tensor | None = None
    drawn: torch.Tensor | None = None

    def __post_init__(self) -> None:
        ids = self.ids
        if (self.tail is None) == (self.drawn is None):
            raise ConfigurationError(
                "candidates have a tail, or the student's own log-probabilities under which they "
                "were drawn; give one of them"
            )
        if ids.dim() < 2 or ids.is_floating_point() or ids.dtype == torch.bool or not ids.shape[-1]:
            raise ConfigurationError(
                f"candidates are {ids.dtype} {list(ids.shape)}; they must be integers [..., K]"
            )
        for name, values in self._values().items():
            shape = ids.shape[:-1] if name == "tail" else ids.shape
            if values.shape != shape or not values.is_floating_point():
                raise ConfigurationError(
                    f"{name} is {values.dtype} {list(values.shape)}; with candidates "
                    f"{list(ids.shape)} it must be {list(shape)}, of a floating dtype"
                )
            if values.device != ids.device:
                raise ConfigurationError(
                    f"the candidates are on {ids.device}, and {name} on {values.device}; move them "
                    "to one device"
                )

    def _values(self) -> dict[str, torch.Tensor]:
        """What is given besides the ids."""
        values = {"log_probs": self.log_probs, "tail": self.tail, "drawn": self.drawn}
        return {name: each for name, each in values.items() if each is not None}

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Candidates:
        """The same with each tensor changed."""
        values = {name: change(each) for name, each in self._values().items()}
        return Candidates(change(self.ids), **values)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the ids, `[..., K]`."""
        return tuple(self.ids.shape)

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.ids.device

    def to(self, device: torch.device | str | int) -> Candidates:
        """Return the candidates on a device."""
        return self._each(lambda each: each.to(device))

    def classes(self) -> torch.Tensor:
        """Return the teacher's log-probabilities of the K + 1 classes, float32 or float64 `[..., K + 1]`."""
        assert self.tail is not None, "drawn candidates are no classes"
        both = torch.cat([self.log_probs, self.tail.to(self.log_probs.dtype).unsqueeze(-1)], -1)
        return both if both.dtype == torch.float64 else both.float()

    def take(self, index: torch.Tensor | None) -> Candidates:
        """Return some positions, or all, one after the other: ids `[n, K]`, without gradients.

        Args:
            index: int64 `[n]`: the positions in flattened order; None for all.
        """
        places = len(self.ids.shape) - 1

        def taken(each: torch.Tensor) -> torch.Tensor:
            flat = each.detach().flatten(0, places - 1)
            return flat if index is None else flat.index_select(0, index.to(each.device))

        return self._each(taken)

    def cut(self, start: int, stop: int) -> Candidates:
        """Return some adjacent positions of `[n, K]`."""
        return self._each(lambda each: each[start:stop])

    def check(self, vocabulary: int) -> None:
        """Raise unless all ids are of a vocabulary, and if they were not drawn, each once at a position.

        One wait for the device. Nothing is looked at while `torch.compile` traces.

        Raises:
            ConfigurationError: An id is outside the vocabulary, or a position has one twice.
        """
        if torch.compiler.is_compiling() or not self.ids.numel():
            return
        ordered = self.ids.sort(-1).values
        twice = (ordered[..., 1:] == ordered[..., :-1]).any()
        least, most, repeated = (int(each) for each in (*torch.aminmax(ordered), twice))
        if least < 0 or most >= vocabulary:
            raise ConfigurationError(
                f"the candidates have ids from {least} to {most}; in the student's vocabulary they "
                f"are from 0 to {vocabulary - 1}"
            )
        if repeated and self.drawn is None:
            raise ConfigurationError(
                "a position has the same candidate twice, which would count twice; give each id "
                "once, such as logits.topk(K).indices, or draw them with draw_candidates"
            )

    def __repr__(self) -> str:
        how = "ids" if self.drawn is None else "drawn ids"
        return f"Candidates({self.shape[-1]} {how} at each of {list(self.shape[:-1])} positions)"


@torch.no_grad()
def draw_candidates(
    logits: torch.Tensor, draws: int, *, generator: torch.Generator | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw ids from the softmax of logits, systematically: what a student asks its teacher about.

    One random number u in [0, 1) decides all N draws of a position: draw n is the id at which the
    cumulative probability passes (n + u) / N. So an id is drawn floor(N p) or ceil(N p) times, and
    N p times in the mean. Sums are float64: `[..., V]` of it exist meanwhile.

    Args:
        logits: `[..., V]`, of a floating dtype.
        draws: How many ids are drawn at a position: N. An id may be drawn several times.
        generator: Where the randomness comes from; of the logits' device.

    Returns:
        The ids, int32 `[..., N]`, and their log-probabilities, float32 `[..., N]`: `ids` and
        `drawn` of `Candidates`.

    Raises:
        ConfigurationError: There are no logits, or the number of draws is not one.
    """
    count = check_whole_number("draws", draws)
    if logits.dim() < 2 or not logits.is_floating_point():
        raise ConfigurationError(
            f"logits are {logits.dtype} {list(logits.shape)}; they must be [..., V], of a floating "
            "dtype"
        )
    flat = torch.log_softmax(logits.flatten(0, -2).double(), -1)
    cumulated = flat.exp().cumsum(-1)
    u = torch.rand(len(flat), 1, dtype=torch.float64, device=flat.device, generator=generator)
    steps = torch.arange(count, dtype=torch.float64, device=flat.device)
    # Of rounded sums the last is not exactly 1.
    wanted = (steps + u) / count * cumulated[:, -1:]
    ids = torch.searchsorted(cumulated, wanted, right=True).clamp_(max=logits.shape[-1] - 1)
    shape = (*logits.shape[:-1], count)
    return ids.int().view(shape), flat.gather(-1, ids).float().view(shape)
