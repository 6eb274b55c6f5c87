"""Losses for distilling language models: see `tutelage.consumers.losses`, whose names these are."""

from tutelage.consumers.losses import (
    Candidates,
    Head,
    Projection,
    draw_candidates,
    forward_kl,
    jsd,
    reverse_kl,
)

__all__ = ["Candidates", "Head", "Projection", "draw_candidates", "forward_kl", "jsd", "reverse_kl"]
