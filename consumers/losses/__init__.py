"""Losses for distilling language models: logits and targets -> differentiable numbers.

    from tutelage import losses

    loss = losses.forward_kl(student_logits, batch["logits"], mask=batch["mask"])

Targets are logits, `SparseTarget`s, hidden states with a head (`Projection`), or log-probabilities
of ids that the student chose (`Candidates`).
"""

from tutelage.consumers.losses.candidates import Candidates, draw_candidates
from tutelage.consumers.losses.head import Head
from tutelage.consumers.losses.losses import forward_kl, jsd, reverse_kl
from tutelage.consumers.losses.projection import Projection

__all__ = ["Candidates", "Head", "Projection", "draw_candidates", "forward_kl", "jsd", "reverse_kl"]
