"""The discriminator of masks and of residuals."""

from itertools import pairwise

from torch import nn


def build_discriminator(width: int = 64) -> nn.Sequential:
    """Patch discriminator of source and target: softmax maps (B, 2, H, W) -> (B, 1, H/32, W/32).

    Returns logits, trained towards 0 for source maps and 1 for target maps. 2,763,713 parameters at
    width 64. Source: Huang et al., MICCAI 2022.
    """
    channels = [2, width, 2 * width, 4 * width, 8 * width, 1]
    layers: list[nn.Module] = []
    for channels_in, channels_out in pairwise(channels):
        layers += [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])  # no activation after the last layer
