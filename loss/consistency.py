"""Inter-section consistency: one section's mask XOR the residual is the other's pseudo label.

    p_current   = argmax(auxiliary) XOR argmax(residual)
    p_auxiliary = argmax(current)   XOR argmax(residual)
    loss        = CE(current, p_current) + CE(auxiliary, p_auxiliary)

Source: Huang et al., MICCAI 2022.
"""

import math

from torch import Tensor

from loss.supervised import cross_entropy
from utils.ignore import IGNORE


def pseudo_labels(current: Tensor, auxiliary: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Hard pseudo labels of current and auxiliary section, (B, H, W) int64, without gradient.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W).
    """
    mask_current, mask_auxiliary, differs = (
        logits.detach().argmax(1) for logits in (current, auxiliary, residual)
    )
    return mask_auxiliary ^ differs, mask_current ^ differs


def consistency_loss(
    current: Tensor, auxiliary: Tensor, residual: Tensor, ignored: Tensor | None = None
) -> Tensor:
    """Cross entropy of both masks with their pseudo labels. The residual gets no gradient.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W).
        ignored: (B, 2, H, W) bool, ignored pixels of the two sections. A pseudo label depends on
            both sections, so it is ignored where one of them is. None: no pixels are ignored.
    """
    labels = pseudo_labels(current, auxiliary, residual)
    if ignored is not None:
        labels = [label.masked_fill(ignored.any(1), IGNORE) for label in labels]
    return cross_entropy(current, labels[0]) + cross_entropy(auxiliary, labels[1])


def rampup(iteration: int, rampup_iters: int) -> float:
    """exp(-5 (1 - min(iteration, n) / n)^2), from 0.007 at the start to 1 at iteration n."""
    return math.exp(-5 * (1 - min(iteration, rampup_iters) / rampup_iters) ** 2)
