"""Supervised loss on labelled pairs: the source's, or the target's with pseudo labels of a round.

    loss = CE(current, y_current) + CE(auxiliary, y_auxiliary)
         + CE(residual, y_current XOR y_auxiliary)

Source: Huang et al., MICCAI 2022.
"""

import torch.nn.functional as F
from torch import Tensor


def inter_section_residual(masks: Tensor) -> Tensor:
    """Where the masks of a pair differ: (B, 2, H, W) of 0 and 1 -> (B, H, W), their XOR."""
    return masks[:, 0] ^ masks[:, 1]


def supervised_losses(
    current: Tensor, auxiliary: Tensor, residual: Tensor, masks: Tensor, domain: str = "source"
) -> dict[str, Tensor]:
    """Cross entropy of both masks and of the residual, each of weight 1.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W) of labelled pairs.
        masks: (B, 2, H, W) int64 of 0 and 1.
        domain: ``source`` or ``target``.

    Returns:
        ``seg_<domain>_current``, ``seg_<domain>_auxiliary``, ``seg_<domain>_residual``.
    """
    return {
        f"seg_{domain}_current": F.cross_entropy(current, masks[:, 0]),
        f"seg_{domain}_auxiliary": F.cross_entropy(auxiliary, masks[:, 1]),
        f"seg_{domain}_residual": F.cross_entropy(residual, inter_section_residual(masks)),
    }
