"""A stored teacher for TRL's `GKDTrainer`: token ids enter, the logits that files hold leave.

Experimental, as TRL's trainer is: `pip install 'tutelage[gkd]'` brings the version it is tested with.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutput
from trl.experimental.gkd import GKDConfig, GKDTrainer

from tutelage import KnowledgeFile, KnowledgeFiles, Sampled
from tutelage.integrations.dense_logits import write_logits
from tutelage.integrations.gkd_settings import check_settings, vocabulary_of
from tutelage.integrations.stored_texts import StoredTexts
from tutelage.schemas.arguments import check_choice, check_whole_number
from tutelage.schemas.errors import ConfigurationError


class StoredTeacher(nn.Module):
    """Stands for a teacher model in TRL's `GKDTrainer`: its logits come from knowledge files.

    Guarantee: a text gets the logits that a teacher wrote of exactly its tokens, or an error says
    why it has none. No teacher takes memory on the GPU.

    The files are those of `CausalLMTeacher`. Padding on either side is left out before a text is
    looked up. What the student generates is in no file, so `lmbda` is 0. The divergence has
    temperature 1: `GKDTrainer` uses `GKDConfig.temperature` for generation alone.

    TRL wants dense logits: a batch takes rows x T x vocabulary x 4 bytes, which is 5 GB for 8 rows
    of 1,024 tokens and 151,936 ids, and TRL's loss makes several tensors of this size. Where that
    is too much, `KnowledgeTrainer` computes the loss from sampled logits as they are.

    Sampled logits become the logarithms of `counts / draws`. The gradient is that of
    `losses.forward_kl`; the value of the loss is higher, by the difference of the teacher's entropy
    and that of the draws.

    Args:
        knowledge: The files. All rows are read once, to index them by their token ids.
        args: The trainer's settings.
        key: The key of the logits: dense or int8 `[T, vocabulary]`, or sampled.
        vocabulary: The student's `config.vocab_size`, if larger than the teacher's; the ids beyond
            get probability 0. If not given, the teacher's.
        repeated: What is done where a text occurs twice with different knowledge: `"error"`, or
            `"first"` to take the first row.

    Raises:
        ConfigurationError: The files have no such logits, or a setting would make the loss wrong:
            `lmbda` or `seq_kd`, DeepSpeed, `beta` above 0 where not all logits are known.
        DataError: A record is damaged.
    """

    def __init__(
        self,
        knowledge: KnowledgeFile | KnowledgeFiles,
        args: GKDConfig,
        *,
        key: str = "logits",
        vocabulary: int | None = None,
        repeated: Literal["error", "first"] = "error",
    ) -> None:
        super().__init__()
        check_choice("repeated", repeated, ("error", "first"))
        self._key = key
        known = vocabulary_of(knowledge, key)
        size = known if vocabulary is None else check_whole_number("vocabulary", vocabulary)
        if size < known:
            raise ConfigurationError(f"vocabulary is {size:,}, and {key!r} has {known:,} ids")
        sampled = isinstance(knowledge.description[key].encoding, Sampled)
        check_settings(args, knows_all=size == known and not sampled)
        options: dict[str, Any] = {"vocab_size": size}
        #: What `GKDTrainer` compares with the student's.
        self.config = PreTrainedConfig(**options)
        self._texts = StoredTexts(knowledge, repeated=repeated)
        self._counted: torch.Tensor | None = None

    def count(self, labels: torch.Tensor) -> None:
        """Say which positions of the next batch are in the loss, so that they can be checked.

        Args:
            labels: Integers `[rows, T]`; position i counts if label i + 1 is not -100.
        """
        self._counted = nn.functional.pad(labels[:, 1:] != -100, (0, 1)).cpu()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> CausalLMOutput:
        """Return the logits of a batch of texts.

        Args:
            input_ids: Integers `[rows, T]`.
            attention_mask: `[rows, T]`, 0 at padding.

        Returns:
            An output with `logits`: float32 `[rows, T, vocabulary]` on the device of `input_ids`,
            0 at padding and at positions of which the teacher sent nothing.

        Raises:
            ConfigurationError: A text is in no file, or a position that counts has no logits.
            DataError: A record is damaged, or has logits that are not finite.
        """
        ids = input_ids.cpu()
        real = torch.ones_like(ids) if attention_mask is None else attention_mask.cpu()
        places = [row.nonzero()[:, 0] for row in real]
        texts = self._texts.of([row[place] for row, place in zip(ids, places, strict=True)])
        shape = (*ids.shape, self.config.vocab_size)
        logits = torch.zeros(shape, device=input_ids.device)
        counted, self._counted = self._counted, None
        for row, (text, place) in enumerate(zip(texts, places, strict=True)):
            at = place[text["kept"] != 0] if "kept" in text else place
            # The last position predicts nothing that TRL compares.
            needed = place[:-1] if counted is None else counted[row].nonzero()[:, 0]
            missing = needed[~torch.isin(needed, at)]
            if len(missing):
                raise ConfigurationError(_not_known(row, int(missing[0]), counted is not None))
            value = text[self._key].to(logits.device)
            write_logits(logits[row], at.to(logits.device), value, self._key)
        return CausalLMOutput(logits=logits)


def _not_known(row: int, position: int, is_counted: bool) -> str:
    if is_counted:
        return (
            f"the labels count position {position} in row {row} of the batch, of which the teacher "
            "sent no logits; make its loss_mask or labels with the same collator"
        )
    return (
        f"the teacher sent no logits of position {position} in row {row} of the batch, and "
        "GKDTrainer does not say whether it counts; train with KnowledgeGKDTrainer"
    )


class KnowledgeGKDTrainer(GKDTrainer):
    """TRL's `GKDTrainer`, which tells its `StoredTeacher` which positions are in the loss.

    Needed where the files have the logits of answers alone (`kept`): only the labels say whether
    these are the positions that the trainer counts.
    """

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the loss of one batch, as `GKDTrainer` does."""
        teacher = self.accelerator.unwrap_model(self.teacher_model)
        if not isinstance(teacher, StoredTeacher):
            raise ConfigurationError("teacher_model must be a StoredTeacher; else use GKDTrainer")
        teacher.count(inputs["labels"])
        return super().compute_loss(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]
