"""The batches that a caller asks for, checked at the call. No I/O, threads or clocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tutelage.consumers.batch_extras import Extras
from tutelage.consumers.shuffle import Shuffle
from tutelage.consumers.sources.base import Source
from tutelage.schemas.arguments import check_flag, check_text, check_whole_number
from tutelage.schemas.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchRequest:
    """What `Student.knowledge` is asked for.

    Args:
        batch_size: Rows of a batch, over all ranks.
        ranks: How many ranks share it.
        drop_last: Whether a last batch that is shorter is left out.
        whole_batches: Whether no batch of the pass is shorter.
        pass_index: The pass; the next one if None.
        own_memory: Whether each batch gets memory of its own.
        shuffle: How rows are shuffled; None for the teachers' order.
        extras: What each batch gets besides the teachers' keys.
    """

    batch_size: int
    ranks: int
    drop_last: bool
    whole_batches: bool
    pass_index: int | None
    own_memory: bool
    shuffle: Shuffle | None
    extras: Extras

    def check_possible(self, keys: Iterable[str], sources: Sequence[Source]) -> None:
        """Check the request against what the teachers write, and where it is.

        Args:
            keys: The teachers' keys.
            sources: The sources.

        Raises:
            ConfigurationError: A key is taken, or a source cannot be shuffled.
        """
        self.extras.check_new(keys)
        for source in sources:
            if self.shuffle is not None and not source.is_random_access:
                raise ConfigurationError(
                    f"shuffle: {source.name} is read in order, and cannot be shuffled; `tutelage "
                    "record` writes a topic to a file, which can"
                )

    @property
    def order(self) -> tuple[int, ...]:
        """The order of the rows, as a state keeps it."""
        return () if self.shuffle is None else tuple(self.shuffle.plain())

    def kept(self) -> dict[str, Any]:
        """What a state keeps of it."""
        return {
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "shuffle": self.order,
        }

    @classmethod
    def from_arguments(
        cls,
        batch_size: Any,
        *,
        ranks: int,
        flat: bool,
        global_batch_size: Any = None,
        drop_last: Any = False,
        whole_batches: Any = False,
        pass_index: Any = None,
        own_memory: Any = False,
        shuffle: Any = None,
        weight_key: Any = None,
        position_key: Any = None,
        pad_empty: Any = False,
    ) -> BatchRequest:
        """Check the arguments of `Student.knowledge`.

        Args:
            ranks: How many ranks share a batch.
            flat: Whether ragged keys are given without padding.

        Raises:
            ConfigurationError: An argument has the wrong type or value.
        """
        if (batch_size is None) == (global_batch_size is None):
            raise ConfigurationError(
                "give batch_size, the rows of a batch of one rank, or global_batch_size, those of "
                "all ranks together"
            )
        if batch_size is not None:
            size = ranks * check_whole_number("batch_size", batch_size)
        else:
            size = check_whole_number("global_batch_size", global_batch_size)
        keys = {"weight_key": weight_key, "position_key": position_key}
        named = {name: None if key is None else check_text(name, key) for name, key in keys.items()}
        if weight_key is not None and weight_key == position_key:
            raise ConfigurationError(f"weight_key and position_key are both {weight_key!r}")
        if check_flag("pad_empty", pad_empty) and weight_key is None:
            raise ConfigurationError(
                "pad_empty gives a row that must not count; ask for weight_key too, and multiply "
                "each row's loss by its weight"
            )
        if shuffle is not None and not isinstance(shuffle, Shuffle):
            raise ConfigurationError(f"shuffle is {shuffle!r}; it must be Shuffle(seed=...)")
        return cls(
            batch_size=size,
            ranks=ranks,
            drop_last=check_flag("drop_last", drop_last),
            whole_batches=check_flag("whole_batches", whole_batches),
            pass_index=None
            if pass_index is None
            else check_whole_number("pass_index", pass_index, least=0),
            own_memory=check_flag("own_memory", own_memory),
            shuffle=shuffle,
            extras=Extras(**named, pad_empty=pad_empty, ranks=ranks, flat=flat),
        )
