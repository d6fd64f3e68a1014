"""Inter-section consistency: the residual turns one section's mask into the other's pseudo label.

    p_current   = argmax(auxiliary) XOR argmax(residual)
    p_auxiliary = argmax(current)   XOR argmax(residual)
    loss        = CE(current, p_current) + CE(auxiliary, p_auxiliary)

Source: Huang et al., MICCAI 2022.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def pseudo_labels(current: Tensor, auxiliary: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
    """Hard pseudo labels of current and auxiliary, (B, H, W) int64; no gradient passes.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W).
    """
    mask_current, mask_auxiliary, differs = (
        logits.detach().argmax(1) for logits in (current, auxiliary, residual)
    )
    return mask_auxiliary ^ differs, mask_current ^ differs


def consistency_loss(current: Tensor, auxiliary: Tensor, residual: Tensor) -> Tensor:
    """Cross entropy of both masks against their pseudo labels; nothing learns from the residual.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W).
    """
    pseudo_current, pseudo_auxiliary = pseudo_labels(current, auxiliary, residual)
    return F.cross_entropy(current, pseudo_current) + F.cross_entropy(auxiliary, pseudo_auxiliary)


def rampup(iteration: int, rampup_iters: int) -> float:
    """exp(-5 (1 - min(it, n) / n)^2): from 0.007 at the start to 1 from iteration n on."""
    return math.exp(-5 * (1 - min(iteration, rampup_iters) / rampup_iters) ** 2)
