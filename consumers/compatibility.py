"""Checks that teachers' streams belong together: the same number of passes and the same inputs.

No I/O, threads or clocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.consumers.sources.base import StreamInfo
from tutelage.schemas.errors import LengthMismatch, RunMismatch


def check_streams(opened: Sequence[StreamInfo], *, allow_other_inputs: bool) -> None:
    """Check that streams may be merged.

    Args:
        opened: What each source found.
        allow_other_inputs: Whether the fingerprints of the teachers' inputs may differ.

    Raises:
        LengthMismatch: The teachers write different numbers of passes.
        RunMismatch: The teachers read different inputs.
    """
    streams = [found.stream for found in opened]
    if len({stream.passes for stream in streams}) > 1:
        passes = ", ".join(f"{stream.teacher} writes {stream.passes}" for stream in streams)
        raise LengthMismatch(
            f"the teachers differ in passes: {passes}; start them with the same number"
        )
    known = [stream for stream in streams if stream.inputs_fingerprint]
    if len({stream.inputs_fingerprint for stream in known}) > 1 and not allow_other_inputs:
        inputs = ", ".join(
            f"{stream.teacher} read {stream.inputs_fingerprint!r}" for stream in known
        )
        raise RunMismatch(
            f"the teachers read different inputs: {inputs}; merge them all the same with "
            "allow_other_inputs=True"
        )


def display_names(opened: Sequence[StreamInfo]) -> list[str]:
    """Return the teachers' names, with a number added to each name that several teachers have."""
    names = [found.stream.teacher for found in opened]
    return [
        f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names)
    ]
