"""Supervised loss on labelled pairs: the source's, or the target's with pseudo labels of a round.

    loss = CE(current, y_current) + CE(auxiliary, y_auxiliary)
         + CE(residual, y_current XOR y_auxiliary)

Each is the mean over the pixels that count; the residual's count where those of both masks do.
Source: Huang et al., MICCAI 2022.
"""

import torch.nn.functional as F
from torch import Tensor

from utils.ignore import IGNORE


def inter_section_residual(masks: Tensor) -> Tensor:
    """Where the masks of a pair differ: (B, 2, H, W) -> (B, H, W), their XOR.

    255 (``IGNORE``) where one of them is.
    """
    ignored = (masks == IGNORE).any(1)
    return (masks[:, 0] ^ masks[:, 1]).masked_fill(ignored, IGNORE)


def cross_entropy(logits: Tensor, masks: Tensor) -> Tensor:
    """Mean cross entropy over the pixels that count; 0 where none does.

    Args:
        logits: (B, 2, H, W).
        masks: (B, H, W) int64 of 0 and 1, 255 (``IGNORE``) where pixels do not count.
    """
    total = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="sum")
    return total / (masks != IGNORE).sum().clamp(min=1)


def supervised_losses(
    current: Tensor, auxiliary: Tensor, residual: Tensor, masks: Tensor, domain: str = "source"
) -> dict[str, Tensor]:
    """Cross entropy of both masks and of the residual, each of weight 1.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W) of labelled pairs.
        masks: (B, 2, H, W) int64 of 0 and 1, 255 (``IGNORE``) where pixels do not count.
        domain: ``source`` or ``target``.

    Returns:
        ``seg_<domain>_current``, ``seg_<domain>_auxiliary``, ``seg_<domain>_residual``.
    """
    return {
        f"seg_{domain}_current": cross_entropy(current, masks[:, 0]),
        f"seg_{domain}_auxiliary": cross_entropy(auxiliary, masks[:, 1]),
        f"seg_{domain}_residual": cross_entropy(residual, inter_section_residual(masks)),
    }
