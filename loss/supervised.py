"""Supervised loss on labelled pairs of the source, or of the target with pseudo labels.

    loss = CE(current, y_current) + CE(auxiliary, y_auxiliary)
         + CE(residual, y_current XOR y_auxiliary)

Each term is the mean over the pixels that are not ignored. A pixel of the residual is ignored if it
is ignored in one of the masks. Source: Huang et al., MICCAI 2022.
"""

import torch.nn.functional as F
from torch import Tensor

from utils.ignore import IGNORE


def inter_section_residual(masks: Tensor) -> Tensor:
    """XOR of the two masks of a pair, (B, 2, H, W) -> (B, H, W); 255 where one of them is."""
    ignored = (masks == IGNORE).any(1)
    return (masks[:, 0] ^ masks[:, 1]).masked_fill(ignored, IGNORE)


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that are not ignored; 0 if all are.

    Args:
        logits: (B, 2, H, W).
        masks: (B, H, W) int64 of 0, 1 and 255 (``IGNORE``).
    """
    total = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)


def supervised_losses(
    current: Tensor, auxiliary: Tensor, residual: Tensor, masks: Tensor, domain: str = "source"
) -> dict[str, Tensor]:
    """Cross entropy of both masks and of the residual, each with weight 1.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W) of labelled pairs.
        masks: (B, 2, H, W) int64 of 0, 1 and 255 (``IGNORE``).
        domain: ``source`` or ``target``, for the names of the terms.

    Returns:
        ``seg_<domain>_current``, ``seg_<domain>_auxiliary``, ``seg_<domain>_residual``.
    """
    return {
        f"seg_{domain}_current": cross_entropy(current, masks[:, 0]),
        f"seg_{domain}_auxiliary": cross_entropy(auxiliary, masks[:, 1]),
        f"seg_{domain}_residual": cross_entropy(residual, inter_section_residual(masks)),
    }
