"""The part of `Student` that reads the heads which turn teachers' hidden states into logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tutelage.consumers.sources.base import Source, StreamInfo
from tutelage.schemas.errors import RunMismatch

if TYPE_CHECKING:
    from tutelage.consumers.losses.head import Head
    from tutelage.consumers.stages.merge import Merge


class Heads:
    """Reads a teacher's head, and checks that it belongs to what the teacher wrote."""

    if TYPE_CHECKING:

        def _merging(self) -> Merge: ...
        def _streams(self) -> list[StreamInfo]: ...

    def head(self, source: Source, *, timeout_s: float = 600.0) -> Head:
        """Read the head of a teacher that sends hidden states.

        Args:
            source: Where `write_head` wrote it; closed at the end.
            timeout_s: Seconds to wait for the topic to appear, and for each record.

        Returns:
            The head, on the CPU, for `losses.Projection(batch["hidden"], head)`.

        Raises:
            ConfigurationError: The student is not started.
            RunMismatch: No teacher of this student names this head.
            CorruptData: The source holds no head, or its checksum is wrong.
            WaitTimeout, TransportError: As for `start`.
        """
        from tutelage.consumers.head_run import read_head

        # Opens the teachers' streams.
        self._merging()
        head = read_head(source, timeout_s=timeout_s)
        streams = [found.stream for found in self._streams()]
        if head.checksum() not in {stream.head for stream in streams}:
            theirs = ", ".join(
                f"{stream.teacher} names {stream.head or 'none'}" for stream in streams
            )
            if not any(stream.head for stream in streams):
                raise RunMismatch(
                    f"{source.name} holds head {head.checksum()}, but the teachers "
                    f"({theirs}) do not say which head their states are for, so it cannot be "
                    "checked. Let them run again with Teacher(head=head.checksum()), or use "
                    "losses.Head.from_model(model)"
                )
            raise RunMismatch(
                f"{source.name} holds head {head.checksum()}, which is not that of the teachers "
                f"({theirs}): its logits would be wrong. Write the head that the states were made "
                "with, and give its checksum to the teacher: Teacher(head=head.checksum())"
            )
        return head
