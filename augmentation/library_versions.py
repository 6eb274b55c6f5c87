"""The versions of libraries that decide what a seed gives, as a short text in a fingerprint.

No library promises the same numbers, crops or pixels in its next version (docs/augmentation.md).
"""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version

from tutelage.schemas.arguments import check_text
from tutelage.schemas.errors import ConfigurationError, RunMismatch

_ALWAYS = ("numpy", "torch")
_TEXT = re.compile(r"augmentation\[([^\]]*)\]")
# A distribution's name, as packaging allows it.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


def versions(*libraries: str) -> str:
    """Return the versions that augmentations depend on here, for a teacher's `inputs_fingerprint`.

        Teacher(sink, inputs_fingerprint=f"imagenet, seeds 1; {versions('torchvision')}")

    Teachers whose fingerprints differ are not merged, so those of other versions are refused. The
    student compares them with its own by `check_versions`.

    Args:
        libraries: Distributions that augment, besides numpy, torch and Python, such as
            "torchvision" or "pillow".

    Returns:
        Such as "augmentation[numpy=2.4.6 python=3.11 torch=2.10.0]". Local versions, such as
        "+cu130", are left out: they name the build, and students may have another one.

    Raises:
        ConfigurationError: A library is not installed, or is not a distribution's name.
    """
    found = {name: _version(name) for name in (*_ALWAYS, *libraries)}
    found["python"] = ".".join(platform.python_version_tuple()[:2])
    return f"augmentation[{' '.join(f'{name}={found[name]}' for name in sorted(found))}]"


def check_versions(fingerprint: str) -> None:
    """Check that seeds give here what they gave where a teacher ran.

        source = FileSource("teacher.avro")
        check_versions(source.open(timeout_s=60).stream.inputs_fingerprint)

    Args:
        fingerprint: A teacher's `inputs_fingerprint`, with the text of `versions` in it.

    Raises:
        RunMismatch: A library has another version here, or is missing.
        ConfigurationError: The fingerprint names no versions.
    """
    found = _TEXT.search(check_text("fingerprint", fingerprint, empty=True))
    if found is None:
        raise ConfigurationError(
            f"the fingerprint {fingerprint!r} names no versions; the teacher adds them with "
            "inputs_fingerprint=f'...; {versions()}'"
        )
    differs = []
    for entry in found[1].split():
        name, _, theirs = entry.partition("=")
        ours = _here(name)
        if ours != theirs:
            differs.append(f"{name} {theirs} there, {ours or 'not installed'} here")
    if differs:
        raise RunMismatch(
            f"the teacher's seeds were made with other versions: {'; '.join(differs)}. The same "
            "seeds may give other crops. Install the teacher's versions; or compare what is drawn "
            "here with the parameters that are stored beside the seeds, and leave out this check"
        )


def _version(name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the name of a distribution")
    found = _here(name)
    if found is None:
        raise ConfigurationError(
            f"{name} is not installed; name distributions as pip does, such as 'pillow' for PIL"
        )
    return found


def _here(name: str) -> str | None:
    """The version of a distribution, or of Python."""
    if name == "python":
        return ".".join(platform.python_version_tuple()[:2])
    try:
        return version(name).partition("+")[0]
    except (PackageNotFoundError, ValueError):
        return None
