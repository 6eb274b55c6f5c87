"""Whether teachers' streams belong together: as many passes, the same inputs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tutelage.consumers.sources.base import StreamInfo
from tutelage.schemas.errors import LengthMismatch, RunMismatch


def check_streams(opened: Sequence[StreamInfo], *, allow_other_inputs: bool) -> None:
    """LengthMismatch where streams differ in passes; RunMismatch where teachers read different inputs, unless that is allowed."""
    passes = {found.stream.passes for found in opened}
    if len(passes) > 1:
        said = ", ".join(f"{found.stream.teacher} writes {found.stream.passes}" for found in opened)
        raise LengthMismatch(
            f"the teachers differ in passes: {said}; start them with the same number"
        )
    prints = {
        found.stream.inputs_fingerprint for found in opened if found.stream.inputs_fingerprint
    }
    if len(prints) > 1 and not allow_other_inputs:
        said = ", ".join(
            f"{found.stream.teacher} read {found.stream.inputs_fingerprint!r}"
            for found in opened
            if found.stream.inputs_fingerprint
        )
        raise RunMismatch(
            f"the teachers read different inputs: {said}; merge them all the same with allow_other_inputs=True"
        )


def display_names(opened: Sequence[StreamInfo]) -> list[str]:
    """The teachers' names; numbered where two have the same."""
    names = [found.stream.teacher for found in opened]
    return [
        f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names)
    ]
