"""What TRL's `GKDTrainer` can do with stored logits: files and settings are checked before training."""

from __future__ import annotations

from typing import Any

from tutelage.consumers.random_access.row_dataset import RowDataset
from tutelage.integrations.stored_texts import IDS
from tutelage.schemas.encodings import Sampled, TopK
from tutelage.schemas.errors import ConfigurationError

_FLOATS = {"float16", "bfloat16", "float32", "float64"}


def vocabulary_of(knowledge: Any, key: str) -> int:
    """Return how many ids the logits of files have.

    Args:
        knowledge: The files.
        key: The key of the logits.

    Raises:
        ConfigurationError: They are no files with texts and their logits, or `GKDTrainer` would
            make something else of the logits.
    """
    if not isinstance(knowledge, RowDataset):
        raise ConfigurationError(
            f"knowledge is a {type(knowledge).__name__}; give a KnowledgeFile or KnowledgeFiles"
        )
    found = knowledge.description
    if missing := sorted({IDS, key} - set(found)):
        raise ConfigurationError(
            f"{knowledge} has no {missing[0]!r}, it has {found}; the teacher must be a "
            "CausalLMTeacher, or send the same keys"
        )
    spec = found[key]
    encoding = spec.encoding
    if isinstance(encoding, TopK):
        raise ConfigurationError(
            f"{key!r} of {knowledge} is {encoding}. GKDTrainer would take the probability of all "
            "other ids for 0, and teach the student to be surer than the teacher; train with "
            "KnowledgeTrainer, or have the teacher send Sampled"
        )
    if isinstance(encoding, Sampled) and encoding.temperature != 1:
        raise ConfigurationError(
            f"{key!r} of {knowledge} has temperature {encoding.temperature:g}, and GKDTrainer "
            "compares it with the student's logits at temperature 1; train with KnowledgeTrainer"
        )
    if len(spec.shape) != 2 or spec.dtype not in _FLOATS:
        raise ConfigurationError(
            f"{key!r} of {knowledge} is {spec}; it must be floats [T, vocabulary] for each row"
        )
    return int(spec.shape[-1] or 0)


def check_settings(args: Any, *, knows_all: bool) -> None:
    """Check a trainer's settings.

    Args:
        args: A `GKDConfig`.
        knows_all: Whether the logits of all ids are known.

    Raises:
        ConfigurationError: Stored logits do not do for them.
    """
    if args.lmbda > 0:
        raise ConfigurationError(
            f"lmbda is {args.lmbda:g}, so the student would train on texts that it generates, and "
            "they are in no file; set lmbda=0"
        )
    if args.seq_kd:
        raise ConfigurationError(
            "seq_kd=True has the teacher generate texts, which a stored one cannot; set "
            "seq_kd=False, and train on texts that the teacher generated"
        )
    if args.deepspeed_plugin is not None:
        raise ConfigurationError(
            "under DeepSpeed, GKDTrainer makes an engine of the teacher, and a stored one has no "
            "parameters; train with DDP or FSDP"
        )
    if args.beta > 0 and not knows_all:
        raise ConfigurationError(
            f"beta is {args.beta:g}. Anything but forward KL needs the teacher's logits of all ids, "
            "and of these some are unknown or have no probability; set beta=0"
        )
