"""What a teacher writes: hidden states and its head once, and from them each encoding of its logits.

The forward pass is most of a teacher's work and the same for all encodings, so it runs once. With
the head, hidden states are all that a model knows: they can be encoded again at any time. A teacher
of which one encoding is wanted writes that at once: `serve(CausalLMTeacher(model), inputs)`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from tutelage import (
    FileSink,
    FileSource,
    Int8,
    Projected,
    Sampled,
    Sink,
    Student,
    Teacher,
    TopK,
    write_head,
)
from tutelage.consumers.head_run import read_head
from tutelage.examples.language_model.text import Text, batches
from tutelage.integrations.transformers import CausalLMTeacher
from tutelage.losses import Head

Say = Callable[[str], None]
# The tokens themselves are in every file: int32 `input_ids` and `targets`.
_TOKEN_BYTES = 8
# Windows in one batch that is encoded.
_ROWS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """What it took to write a file.

    Args:
        tokens: Tokens that are labelled, those of each pass counted.
        bytes_per_token: Of knowledge, without the tokens themselves.
        s_per_token: Seconds for a token: of the forward pass and writing for hidden states, of the
            head, encoding and writing for what is encoded from them.
    """

    tokens: int
    bytes_per_token: float
    s_per_token: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Shelf:
    """The files of one experiment: `TEACHER-ENCODING.avro`, and what they took.

    Args:
        folder: Where they are.
        text: The text that they are about.
        device: Where teachers run.
        say: Called with a line of progress.
    """

    folder: Path
    text: Text
    device: str
    say: Say

    def path(self, name: str) -> Path:
        """The file of a name, such as `base-dense`."""
        return self.folder / f"{name}.avro"

    def write_states(self, teacher: str, load: Callable[[], PreTrainedModel]) -> None:
        """Write a teacher's hidden states and its head, unless they are there.

        Args:
            teacher: The teacher's name.
            load: Returns the teacher; called if a file is missing.
        """
        states, head = f"{teacher}-hidden32", self.path(f"{teacher}-head")
        if self.path(states).exists() and head.exists():
            return
        model = load()
        self._timed(
            states,
            partial(
                serve, model=model, windows=self.text.train, text=self.text, hidden=True,
                device=self.device, name=states,
            ),
        )  # fmt: skip
        if not head.exists():
            write_head(
                FileSink(head), CausalLMTeacher(model, vocabulary=self.text.vocabulary).head()
            )

    def write_held_out(self, teacher: str, load: Callable[[], PreTrainedModel]) -> None:
        """Write a teacher's hidden states of the text that is held out, unless they are there."""
        name = f"{teacher}-held-out"
        if not self.path(name).exists():
            self._timed(
                name,
                partial(
                    serve, model=load(), windows=self.text.held_out, text=self.text, hidden=True,
                    device=self.device, name=name,
                ),
            )  # fmt: skip

    def encode(self, teacher: str, encoding: str, passes: int) -> str:
        """Write one encoding of what a teacher's hidden states and head say, unless it is there.

        Args:
            teacher: The teacher's name.
            encoding: Its name in `wires`.
            passes: How many passes a student makes. What is drawn is drawn anew for each of them;
                what is the same each time is written once.

        Returns:
            The name of the file.
        """
        name = f"{teacher}-{encoding}"
        if encoding == "hidden32" or self.path(name).exists():
            return name
        head = self.head(teacher).to(self.device)

        def knowledge(batch: dict[str, torch.Tensor]) -> dict[str, Any]:
            here = batch["hidden"].to(self.device)
            kept = {key: batch[key] for key in ("input_ids", "targets")}
            if encoding == "hidden8":
                return {**kept, "hidden": here}
            return {**kept, "logits": Projected(here, head, head.vocabulary)}

        form = wires(self.text.tokenizer)[encoding]
        wire = {"hidden" if encoding == "hidden8" else "logits": form}
        passes = passes if isinstance(form, Sampled) else 1

        def write(sink: Sink) -> None:
            with Teacher(
                sink,
                run_id=name,
                wire=wire,
                passes=passes,
                inputs_fingerprint=self.text.fingerprint,
            ) as writer:
                writer.serve(knowledge, lambda: read(self.path(f"{teacher}-hidden32"), _ROWS))

        self._timed(name, write, passes)
        return name

    def head(self, teacher: str) -> Head:
        """Read a teacher's head."""
        return read_head(FileSource(self.path(f"{teacher}-head")))

    def written(self) -> dict[str, Written]:
        """What the files took, by name."""
        path = self.folder / "written.json"
        if not path.exists():
            return {}
        noted = json.loads(path.read_text(encoding="utf-8"))
        return {name: Written(**each) for name, each in noted.items()}

    def _timed(self, name: str, write: Callable[[Sink], None], passes: int = 1) -> None:
        """Write a file, and note what it took in `written.json`."""
        path = self.path(name)
        began = time.perf_counter()
        write(FileSink(path, overwrite=True))
        seconds = time.perf_counter() - began
        windows = self.text.held_out if name.endswith("held-out") else self.text.train
        tokens = passes * windows[:, 1:].numel()
        found = Written(
            tokens=tokens,
            bytes_per_token=path.stat().st_size / tokens - _TOKEN_BYTES,
            s_per_token=seconds / tokens,
        )
        noted = {key: asdict(each) for key, each in (self.written() | {name: found}).items()}
        (self.folder / "written.json").write_text(json.dumps(noted, indent=1), encoding="utf-8")
        self.say(
            f"{name}: {found.bytes_per_token:,.0f} bytes and {1000 * found.s_per_token:.2f} ms a token"
        )


def wires(tokenizer: str) -> dict[str, Any]:
    """How each encoding travels, by name; `tokenizer` is the fingerprint."""
    return {
        "dense": "float16",
        "topk12": TopK(12, tokenizer=tokenizer),
        "topk50": TopK(50, tokenizer=tokenizer),
        "systematic25": Sampled(25, tokenizer=tokenizer),
        "systematic50": Sampled(50, tokenizer=tokenizer),
        "systematic200": Sampled(200, tokenizer=tokenizer),
        "hidden8": Int8(),
    }


def serve(
    sink: Sink,
    model: PreTrainedModel,
    windows: torch.Tensor,
    text: Text,
    *,
    name: str,
    wire: Any = "",
    hidden: bool = False,
    device: str = "cpu",
) -> None:
    """Write what a model knows about windows: `logits`, or `hidden` states instead.

    Args:
        sink: Where to.
        model: The model.
        windows: int64 `[windows, context + 1]`.
        text: The text that the windows are of.
        name: The name of teacher and run. Draws depend on it, so they are always the same.
        wire: How that key travels; its own dtype if empty.
        hidden: Whether to write hidden states.
        device: Where the model runs.
    """
    module = CausalLMTeacher(
        model,
        key=None if hidden else "logits",
        hidden=hidden,
        vocabulary=text.vocabulary,
        carry=["targets"],
    )
    with Teacher(
        sink,
        name=name,
        run_id=name,
        wire={"hidden" if hidden else "logits": wire} if wire else {},
        inputs_fingerprint=text.fingerprint,
    ) as teacher:
        teacher.serve(module, batches(windows), devices=[device])


def read(path: Path, rows: int) -> Iterator[dict[str, torch.Tensor]]:
    """Read one pass of one file, in batches."""
    student = Student()
    student.register_teacher(FileSource(path))
    with student:
        yield from student.knowledge(rows)


def trained_further(
    model: PreTrainedModel, windows: torch.Tensor, *, rate: float, device: str
) -> PreTrainedModel:
    """Train a model on windows once, in their order, and return it.

    Args:
        model: The model; it is changed.
        windows: int64 `[windows, context + 1]`.
        rate: The learning rate.
        device: Where to train.
    """
    model.to(device).train()  # type: ignore[arg-type]
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0, fused=True)
    for batch in batches(windows):
        logits = model(input_ids=batch["input_ids"].to(device), use_cache=False).logits
        targets = batch["targets"].to(device).long()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    model.cpu().train(False)
    return model
