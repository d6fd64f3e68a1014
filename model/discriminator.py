"""The discriminator of masks and of residuals."""

from itertools import pairwise

from torch import nn


def build_discriminator(width: int = 64) -> nn.Sequential:
    """Patch discriminator: does a softmax map (B, 2, H, W) come from the source or the target?

    Returns logits (B, 1, H/32, W/32); the target value is 0 for a source map and 1 for a target
    map. 2,763,713 parameters at width 64. Source: Huang et al., MICCAI 2022.
    """
    channels = [2, width, 2 * width, 4 * width, 8 * width, 1]
    layers: list[nn.Module] = []
    for channels_in, channels_out in pairwise(channels):
        layers += [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])  # logits out: no activation after the last
