"""Adversarial alignment of the masks and residuals of source (0) and target (1).

Source: Huang et al., MICCAI 2022; binary cross entropy with logits, mean over all patches.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SOURCE, TARGET = 0.0, 1.0

Discriminator = Callable[[Tensor], Tensor]  # softmax maps (B, 2, H, W) -> logits (B, 1, h, w)


def domain_loss(logits: Tensor, domain: float) -> Tensor:
    """Binary cross entropy of a discriminator's logits with the value of one domain."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def fooling_loss(discriminator: Discriminator, target_maps: Sequence[Tensor]) -> Tensor:
    """Segmentor's loss: softmax maps (B, 2, H, W) of the target should be taken for the source."""
    return domain_loss(discriminator(torch.cat(target_maps)), SOURCE)


def discriminator_loss(
    discriminator: Discriminator, source_maps: Sequence[Tensor], target_maps: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Loss and accuracy of a discriminator on detached softmax maps (B, 2, H, W).

    Both domains have the same number of maps. Each map has the same weight: a quarter for four
    maps, a half for two.
    """
    maps = torch.cat([*source_maps, *target_maps]).detach()
    source, target = discriminator(maps).chunk(2)
    loss = (domain_loss(source, SOURCE) + domain_loss(target, TARGET)) / 2
    accuracy = torch.cat([source < 0, target >= 0]).float().mean()
    return loss, accuracy


def probabilities(logits: Sequence[Tensor]) -> list[Tensor]:
    """Softmax maps (B, 2, H, W), the discriminators' input, from logits (B, 2, H, W)."""
    return [maps.softmax(1) for maps in logits]
