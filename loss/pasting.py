"""The source's mitochondria pasted into the target: labels that are sure, in the target's context.

    image = source where d(mask), else target;   label = mask where d(mask), else pseudo label

d dilates, so that a mitochondrion comes with its membrane. Both sections of a pair get those of the
same source pair, so that their residual, the XOR of the labels, is that of real mitochondria.
Source: Olsson et al., *ClassMix*, WACV 2021; across domains Tranheden et al., *DACS*, WACV 2021.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from loss.self_training import PseudoLabels

RIM = 3  # pixels round a mitochondrion that come with it


def paste(source: Tensor, masks: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Paste the mitochondria of source pairs into target pairs.

    Args:
        source: (B, 2, H, W).
        masks: (B, 2, H, W), int64 of 0 and 1.
        target: (n B, 2, H, W), n views of the B pairs one after the other.

    Returns:
        The target pairs with them, and where they are, bool; both (n B, 2, H, W).
    """
    views = len(target) // len(source)
    here = F.max_pool2d(masks.to(target.dtype), 2 * RIM + 1, stride=1, padding=RIM) > 0
    here = here.repeat(views, 1, 1, 1)
    return torch.where(here, source.repeat(views, 1, 1, 1), target), here


def labels_of_pasted(
    labels: tuple[PseudoLabels, PseudoLabels], masks: Tensor, pasted: Tensor
) -> tuple[PseudoLabels, PseudoLabels]:
    """Pseudo labels with those of the pasted mitochondria, which count in full.

    Args:
        labels: of both sections of B pairs.
        masks: of the source pairs, (B, 2, H, W).
        pasted: where they were pasted, (B, 2, H, W).
    """
    return tuple(
        PseudoLabels(
            torch.where(pasted[:, k], masks[:, k], found.labels),
            torch.where(pasted[:, k], 1.0, found.weights),
        )
        for k, found in enumerate(labels)
    )
