"""The part of `Student` that reads the heads which turn teachers' hidden states into logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.schemas.errors import ConfigurationError, RunMismatch

if TYPE_CHECKING:
    from tutelage.consumers.losses.head import Head
    from tutelage.consumers.stages.merge import Merge


class Heads:
    """Reads a teacher's head, and checks that it belongs to what the teacher wrote."""

    if TYPE_CHECKING:

        def _merging(self) -> Merge: ...
        def _streams(self) -> list[StreamInfo]: ...

    def head(self, source: Source, *, key: str = "hidden", timeout_s: float = 600.0) -> Head:
        """Read the head of the teachers that send hidden states.

        Args:
            source: Where `write_head` wrote it; closed at the end.
            key: The key of the hidden states. A teacher that it is made of must name this head, and
                all must if their states are mixed, such as by their mean.
            timeout_s: Seconds to wait for the topic to appear, and for each record.

        Returns:
            The head, on the CPU, for `losses.Projection(batch["hidden"], head)`.

        Raises:
            ConfigurationError: The student is not started, or no teacher has the key.
            RunMismatch: The teachers of the key name other heads, or none.
            CorruptData: The source holds no head, or its checksum is wrong.
            WaitTimeout, TransportError: As for `start`.
        """
        from tutelage.consumers.head_run import read_head

        # Opens the teachers' streams.
        merge = self._merging()
        plan = merge.plan_of(key)
        if plan is None:
            raise ConfigurationError(
                f"no teacher has key {key!r}, only {', '.join(map(repr, merge.description))}; name "
                "the key of the hidden states: head(source, key=...)"
            )
        streams = [self._streams()[teacher].stream for teacher in plan.used]
        named = {stream.head for stream in streams}
        head = read_head(source, timeout_s=timeout_s)
        theirs = ", ".join(f"{stream.teacher} names {stream.head or 'none'}" for stream in streams)
        if plan.mixes and len(named) > 1:
            raise RunMismatch(
                f"key {key!r} mixes hidden states for different heads ({theirs}), and no head makes "
                "logits of that: merge the logits of these teachers, not their states"
            )
        if head.checksum() in named:
            return head
        if not any(named):
            raise RunMismatch(
                f"{source.name} holds head {head.checksum()}, but the teachers ({theirs}) do not "
                "say which head their states are for, so it cannot be checked. Let them run again "
                "with Teacher(head=head.checksum()), or use losses.Head.from_model(model)"
            )
        raise RunMismatch(
            f"{source.name} holds head {head.checksum()}, which is not that of the teachers "
            f"({theirs}): its logits would be wrong. Write the head that the states were made "
            "with, and give its checksum to the teacher: Teacher(head=head.checksum())"
        )
