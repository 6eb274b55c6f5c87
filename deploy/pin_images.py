"""Pins the images of others by digest.

`make pin-images` writes today's digests. `python deploy/pin_images.py --check` checks the written
ones. Both need docker with buildx, and access to the image registries.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_FILES = ("Dockerfile", "docker-compose.yml", "k8s/base/registry.yaml")
# The image of Tutelage has no digest before it is built.
_IMAGE = re.compile(
    r"(?P<before>(?:image: |FROM ))(?P<name>(?!tutelage:)[a-z][a-z0-9./-]*:[\w.-]+)"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


def digest_of(image: str) -> str:
    """The digest of an image for all platforms, as its registry has it now.

    Exits with docker's error if the image does not exist.
    """
    command = [
        "docker",
        "buildx",
        "imagetools",
        "inspect",
        image,
        "--format",
        "{{.Manifest.Digest}}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = done.stdout.strip()
    if done.returncode or not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        sys.exit(f"{image}: {done.stderr.strip() or f'docker printed {found!r}'}")
    return found


def pin(folder: Path, digest: Callable[[str], str]) -> None:
    """Write the digest of each image beside its tag."""
    for name in _FILES:
        file = folder / name
        text = file.read_text(encoding="utf-8")
        file.write_text(
            _IMAGE.sub(
                lambda match: f"{match['before']}{match['name']}@{digest(match['name'])}", text
            ),
            encoding="utf-8",
        )


def check(folder: Path, digest: Callable[[str], str]) -> list[str]:
    """Check the written digests.

    Returns:
        A line for each image that has no digest, or whose tag means another image now.
    """
    found = set()
    for name in _FILES:
        for match in _IMAGE.finditer((folder / name).read_text(encoding="utf-8")):
            image, pinned = match["name"], match["digest"]
            if pinned is None:
                found.add(f"{name}: {image} has no digest")
            elif (digest(f"{image.partition(':')[0]}@{pinned}"), digest(image)) != (pinned, pinned):
                found.add(
                    f"{name}: {image} is no longer the image {pinned}: find out why, and run "
                    "`make pin-images`"
                )
    return sorted(found)


if __name__ == "__main__":
    here = Path(__file__).parent
    if sys.argv[1:] == ["--check"]:
        print("\n".join(check(here, digest_of)) or "every image is what its tag says")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        pin(here, digest_of)
