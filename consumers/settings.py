"""A student's arguments, checked at the call. No I/O, threads or clocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tutelage.consumers.batch_request import BatchRequest
from tutelage.consumers.chain import PassOptions
from tutelage.consumers.deal import Deal
from tutelage.consumers.shard import check_shard, found_shard
from tutelage.consumers.sources.base import StreamInfo
from tutelage.consumers.stages.ragged import RaggedFormat
from tutelage.consumers.stages.rebatch import CHUNK_BYTES
from tutelage.consumers.stages.strategies import MergeStrategy, parse_strategy
from tutelage.schemas.arguments import (
    check_choice,
    check_flag,
    check_seconds,
    check_text,
    check_whole_number,
)
from tutelage.schemas.errors import ConfigurationError
from tutelage.schemas.limits import Limits, check_limits

_MOST_BYTES = 2**63 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """A student's arguments, as `Student` documents them."""

    strategies: Mapping[str, MergeStrategy]
    sample_id: str | None
    on_length_mismatch: str
    on_unanswered: str
    allow_other_inputs: bool
    ragged: RaggedFormat
    timeout_s: float
    prefetch: int
    budget_bytes: int
    pin_memory: bool
    limits: Limits
    shard: Any

    @classmethod
    def from_arguments(
        cls,
        merge: Any,
        *,
        sample_id: Any,
        on_length_mismatch: Any,
        on_unanswered: Any = "error",
        allow_other_inputs: Any,
        ragged: Any,
        timeout_s: Any,
        prefetch: Any,
        budget_bytes: Any,
        pin_memory: Any,
        limits: Any,
        shard: Any,
    ) -> Settings:
        """Check the arguments of `Student`.

        Raises:
            ConfigurationError: An argument has the wrong type or value.
            MergeError: A strategy does not exist.
        """
        if merge is not None and not isinstance(merge, Mapping):
            raise ConfigurationError(
                f"merge is {merge!r}; it must be a mapping of keys to strategies, such as "
                "{'logits': 'mean'}"
            )
        strategies = {
            check_text("a key in merge", key, empty=True): strategy
            for key, strategy in (merge or {}).items()
        }
        for key, strategy in strategies.items():
            # Whether teachers have the key is known later, but a misspelt strategy is an error now.
            parse_strategy(key, strategy)
        if ragged is not None and not isinstance(ragged, RaggedFormat):
            raise ConfigurationError(f"ragged_format is {ragged!r}; it must be RaggedFormat(...)")
        return cls(
            strategies=strategies,
            sample_id=None if sample_id is None else check_text("sample_id", sample_id, empty=True),
            on_length_mismatch=check_choice(
                "on_length_mismatch", on_length_mismatch, ("error", "truncate")
            ),
            on_unanswered=check_choice("on_unanswered", on_unanswered, ("error", "skip")),
            allow_other_inputs=check_flag("allow_other_inputs", allow_other_inputs),
            ragged=ragged or RaggedFormat(),
            timeout_s=check_seconds("timeout_s", timeout_s),
            prefetch=check_whole_number("prefetch", prefetch),
            budget_bytes=check_whole_number("budget_bytes", budget_bytes, most=_MOST_BYTES),
            pin_memory=check_flag("pin_memory", pin_memory),
            limits=check_limits(limits),
            shard=check_shard(shard),
        )

    @property
    def truncates(self) -> bool:
        """Whether passes end at the shortest teacher."""
        return self.on_length_mismatch == "truncate"

    @property
    def skips_unanswered(self) -> bool:
        """Whether the rows of queries that no teacher answered are left out."""
        return self.on_unanswered == "skip"

    def resolved(self) -> Settings:
        """The same with the rank that this is: a spawned worker has no process group to ask."""
        return self if self.shard is None else replace(self, shard=found_shard(self.shard))

    @property
    def is_dealt(self) -> bool:
        """Whether rows are dealt to several ranks."""
        return found_shard(self.shard).ranks > 1

    def request(self, batch_size: Any, **arguments: Any) -> BatchRequest:
        """Check the arguments of `Student.knowledge`.

        Args:
            batch_size: Rows of a batch of one rank, or None.
            **arguments: As `BatchRequest.from_arguments` takes them.

        Raises:
            ConfigurationError: An argument has the wrong type or value.
        """
        ranks = found_shard(self.shard).ranks
        flat = not self.ragged.padded
        if self.skips_unanswered and arguments.get("weight_key") is not None:
            raise ConfigurationError(
                "weight_key counts the rows of all ranks, and on_unanswered='skip' leaves some out; "
                "leave one of them away"
            )
        return BatchRequest.from_arguments(batch_size, ranks=ranks, flat=flat, **arguments)

    def deal(self, request: BatchRequest, opened: Sequence[StreamInfo]) -> Deal | None:
        """Which rows this rank gets; None if there is one rank.

        Args:
            request: What was asked for.
            opened: What each source found.

        Raises:
            ConfigurationError: The ranks do not divide the batch.
        """
        shard = found_shard(self.shard)
        if shard.ranks == 1:
            return None
        sizes = [found.stream.rows_per_record for found in opened]
        return Deal.among(shard.rank, shard.ranks, request.batch_size, sizes)

    def options(self, request: BatchRequest, deal: Deal | None) -> PassOptions:
        """The options of one pass.

        Args:
            request: What was asked for.
            deal: Which rows this rank gets; None for all.
        """
        return PassOptions(
            batch_size=request.batch_size // request.ranks,
            deal=deal,
            drop_last=request.drop_last,
            whole_batches=request.whole_batches,
            truncate=self.truncates,
            prefetch=self.prefetch,
            budget_bytes=self.budget_bytes,
            chunk_bytes=0 if request.own_memory else CHUNK_BYTES,
            batch_bytes=self.limits.batch_bytes,
        )

    def plain(self) -> dict[str, Any]:
        """Return the settings on which the batches depend, as JSON values, for checkpoints.

        A merge function is identified by its name only.
        """
        # Left out where it is not used: checkpoints of earlier versions do not have it.
        skips = {"on_unanswered": self.on_unanswered} if self.on_unanswered != "error" else {}
        return {
            **skips,
            "merge": {key: _name(strategy) for key, strategy in sorted(self.strategies.items())},
            "sample_id": self.sample_id,
            "on_length_mismatch": self.on_length_mismatch,
            "ragged": self.ragged.plain(),
        }


def _name(strategy: MergeStrategy) -> str:
    if isinstance(strategy, str):
        return strategy
    return f"function {getattr(strategy, '__qualname__', type(strategy).__name__)}"
