"""Augmentation that a student repeats from a stored seed, so that no images are stored.

A teacher sees each row under random augmentations, and writes the row's seed beside its logits. The
student makes the same crop from the same seed: `docs/augmentation.md`.
"""

from tutelage.augmentation.generators import Generators
from tutelage.augmentation.library_versions import check_versions, versions
from tutelage.augmentation.scope import seeded
from tutelage.augmentation.seeds import seeds_for

__all__ = ["Generators", "check_versions", "seeded", "seeds_for", "versions"]
