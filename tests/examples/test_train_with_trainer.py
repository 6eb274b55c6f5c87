"""The example trains a tiny model on what two teachers know, and goes on when it is run again."""

from __future__ import annotations

from pathlib import Path

import torch
from support import tiny_models
from support.trainer_program import write
from transformers import AutoModelForCausalLM

from tutelage import Sampled
from tutelage.examples.language_model.train_with_trainer import main
from tutelage.integrations.tokenizer_fingerprint import tokenizer_fingerprint


def test_the_example_trains_and_goes_on(tmp_path: Path) -> None:
    tokenizer = tiny_models.tokenizer("a", "b")
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_models.llama().save_pretrained(tmp_path / "model")
    wire = Sampled(10, tokenizer=tokenizer_fingerprint(tokenizer))
    for name in ("one", "two"):
        write(tmp_path / f"{name}.avro", 20, wire=wire)
    flags = [
        f"--model={tmp_path / 'model'}",
        "--knowledge",
        str(tmp_path / "one.avro"),
        str(tmp_path / "two.avro"),
        f"--output_dir={tmp_path / 'out'}",
        "--per_device_train_batch_size=4",
        "--save_steps=2",
        "--report_to=none",
        "--use_cpu=True",
        "--disable_tqdm=True",
    ]
    for steps in (3, 7):
        trainer = main([*flags, f"--max_steps={steps}"])
        assert trainer.state.global_step == steps
    # The second run began behind the first one's last checkpoint, at step 3.
    assert trainer.trained_to.tolist() == [0, 2, 8, 4]
    taught = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    before = tiny_models.llama().state_dict()
    assert not all(torch.equal(value, before[name]) for name, value in taught.state_dict().items())
