"""Models in folders: the teacher for its replicas, and the students that the comparison begins with."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a Llama to a folder, which appears when it is whole.

    Args:
        model: The model. One that was read from GGUF is written in the dtype that it has here.
        folder: The folder; must not exist.
    """
    config = model.config.to_dict()
    # `transformers` treats a model that came from GGUF as quantized, and refuses to save it.
    config.pop("quantization_config", None)
    with torch.device("meta"):
        plain = LlamaForCausalLM(LlamaConfig.from_dict(config))
    plain.load_state_dict(model.state_dict(), assign=True)
    plain.tie_weights()
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        written = Path(place) / "model"
        plain.save_pretrained(written)
        os.replace(written, folder)


def load(folder: Path, device: str = "cpu") -> PreTrainedModel:
    """Read what `save` wrote, in eval mode.

    Args:
        folder: The folder.
        device: Where the model shall be.
    """
    model: PreTrainedModel = LlamaForCausalLM.from_pretrained(folder, local_files_only=True)
    model.to(device).train(False)  # type: ignore[arg-type]
    return model
