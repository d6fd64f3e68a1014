"""What a class looks like to the network, alike in source and target.

With f the features from which the masks' logits are made, and of each class k and domain d

    c_k^d = mean of f over the pixels of class k                 (prototype)
    loss  = sum over k of 1 - cos(c_k^source, c_k^target)

A class that a batch lacks in either domain does not count.
Source: the aligned class prototypes are the idea of Yin et al., *CAFA*, MICCAI 2023; the cosine of
the batch's own means, in place of a contrast with stored ones, is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def prototypes(features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean features of background and mitochondria, (2, C), and whether each is there, (2,) bool.

    Args:
        features: (B, 2 sections, C, H, W).
        masks: (B, 2, H, W), int64 of 0 and 1.
    """
    classes = F.one_hot(masks, 2).to(features.dtype)  # (B, 2, H, W, 2)
    sums = torch.einsum("bschw,bshwk->kc", features, classes)
    counts = classes.sum((0, 1, 2, 3))
    return sums / counts.clamp(min=1)[:, None], counts > 0


def prototype_loss(
    source: Tensor, source_masks: Tensor, target: Tensor, target_masks: Tensor
) -> Tensor:
    """How differently the classes look in the two domains, in [0, 4].

    Args:
        source, target: features (B, 2, C, H, W).
        source_masks, target_masks: (B, 2, H, W), int64 of 0 and 1.
    """
    one, in_source = prototypes(source, source_masks)
    other, in_target = prototypes(target, target_masks)
    apart = 1 - F.cosine_similarity(one, other, dim=1)
    return (apart * (in_source & in_target)).sum()
