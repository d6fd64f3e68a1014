"""Supervised loss on labelled pairs: the source's, or the target's with pseudo labels of a round.

    loss = CE(current, y_current) + CE(auxiliary, y_auxiliary)
         + CE(residual, y_current XOR y_auxiliary)

Source: Huang et al., MICCAI 2022.
"""

import torch.nn.functional as F
from torch import Tensor

SUPERVISED = ("seg_source_current", "seg_source_auxiliary", "seg_source_residual")


def inter_section_residual(masks: Tensor) -> Tensor:
    """Where the masks of a pair differ: (B, 2, H, W) of 0 and 1 -> (B, H, W), their XOR."""
    return masks[:, 0] ^ masks[:, 1]


def supervised_losses(
    current: Tensor, auxiliary: Tensor, residual: Tensor, masks: Tensor
) -> dict[str, Tensor]:
    """Cross entropy of both masks and of the residual, each of weight 1.

    Args:
        current, auxiliary, residual: logits (B, 2, H, W) of labelled pairs.
        masks: (B, 2, H, W) int64 of 0 and 1.
    """
    losses = (
        F.cross_entropy(current, masks[:, 0]),
        F.cross_entropy(auxiliary, masks[:, 1]),
        F.cross_entropy(residual, inter_section_residual(masks)),
    )
    return dict(zip(SUPERVISED, losses, strict=True))
