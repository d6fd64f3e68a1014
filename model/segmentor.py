"""The two-section segmentation network.

Source: Huang et al., MICCAI 2022. As in the released weights, it has InstanceNorm without
parameters and transposed convolutions; the paper's figure shows batch norm and bilinear upsampling.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.normalisation import norm_relu

MEAN_RELU = 1 / math.sqrt(2 * math.pi)  # expectation of ReLU(x), x standard normal


class PairLogits(NamedTuple):
    """Logits (B, 2, H, W) of a pair of sections; channel 1 is mitochondria, or "masks differ"."""

    current: Tensor
    auxiliary: Tensor
    residual: Tensor | None  # None if the residual decoder was skipped


class SectionFeatures(NamedTuple):
    """Skip connections of one section: maps at full and at half resolution."""

    full: Tensor  # (B, width, H, W)
    half: Tensor  # (B, 2 width, H/2, W/2)


class ConvBlock(nn.Module):
    """[conv 3x3, InstanceNorm, ReLU] twice."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return norm_relu(self.conv2(norm_relu(self.conv1(x))))


class UpBlock(nn.Module):
    """Upsample by a transposed conv 2x2, concatenate [skips, upsampled], ConvBlock."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_in, 2, stride=2)
        self.block = ConvBlock(channels_skip + channels_in, channels_out)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        return self.block(torch.cat([*skips, self.up(x)], dim=1))


class FineDecoder(nn.Module):
    """From maps at 1/4 resolution to logits (B, 2, H, W).

    Args:
        width: see ``Segmentor``.
        sections: number of sections with skip connections: 1 for a mask, 2 for the residual.
    """

    def __init__(self, width: int, sections: int) -> None:
        super().__init__()
        self.up_half = UpBlock(2 * width, 2 * width * sections, width)
        self.up_full = UpBlock(width, width * sections, width // 2)
        self.head_conv = nn.Conv2d(width // 2, width // 2, 3, padding=1)
        self.head_logits = nn.Conv2d(width // 2, 2, 3, padding=1)

    def forward(self, quarter: Tensor, *sections: SectionFeatures) -> Tensor:
        x = self.up_half(quarter, *(s.half for s in sections))
        x = self.up_full(x, *(s.full for s in sections))
        return self.head_logits(norm_relu(self.head_conv(x)))


class CoarseDecoder(nn.Module):
    """From the joint maps of both sections at 1/16 resolution to maps at 1/4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_eighth = UpBlock(8 * width, 8 * width, 4 * width)
        self.up_quarter = UpBlock(4 * width, 4 * width, 2 * width)

    def forward(self, quarter: Tensor, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        return self.up_quarter(self.up_eighth(sixteenth, eighth), quarter)


class Segmentor(nn.Module):
    """Reads two sections and predicts both masks and their inter-section residual.

    Args:
        width: channels at full resolution, an even number. The published network has 64, and
            20,755,814 parameters.
    """

    SIZE_MULTIPLE = 16  # H and W must be multiples of it: there are four poolings

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.section_full = ConvBlock(1, width)
        self.section_half = ConvBlock(width, 2 * width)
        self.pair_quarter = ConvBlock(4 * width, 4 * width)
        self.pair_eighth = ConvBlock(4 * width, 8 * width)
        self.pair_sixteenth = ConvBlock(8 * width, 8 * width)
        self.seg_coarse = CoarseDecoder(width)
        self.seg_current = FineDecoder(width, sections=1)
        self.seg_auxiliary = FineDecoder(width, sections=1)
        self.residual_coarse = CoarseDecoder(width)
        self.residual_fine = FineDecoder(width, sections=2)

    @torch.no_grad()
    def begin_at(self, prior: float) -> None:
        """Initialise the mask heads like a detector's, to predict ``prior`` everywhere.

        With w the weights and b the bias of the last layer: w_1 - w_0 >= 0, so that features are
        evidence for mitochondria, and b_1 - b_0 = log(prior / (1 - prior)) - E, where E is the
        expected contribution of the features.

        With PyTorch's initialisation, features become evidence for the background, which is most of
        an image, and are 0 in mitochondria. The probability there depends on the bias alone, and
        stays below 0.6 to 0.75 in a short run. Source of the bias: Lin et al., *Focal loss*, ICCV
        2017.

        Args:
            prior: probability of mitochondria, in (0, 1).
        """
        for decoder in (self.seg_current, self.seg_auxiliary):
            head = decoder.head_logits
            head.weight[0], head.weight[1] = -head.weight[0].abs(), head.weight[1].abs()
            expected = MEAN_RELU * (head.weight[1] - head.weight[0]).sum()
            half = (math.log(prior / (1 - prior)) - expected) / 2
            head.bias[0], head.bias[1] = -half, half

    def forward(self, pair: Tensor, with_residual: bool = True) -> PairLogits:
        """Logits of a pair of sections.

        Args:
            pair: (B, 2, H, W) in [0, 1], current and auxiliary section; H and W multiples of 16.
            with_residual: False skips the residual decoder, about a third of the work.
        """
        both = self.encode_sections(torch.cat([pair[:, :1], pair[:, 1:]]))
        sections = [
            SectionFeatures(*maps) for maps in zip(*(m.chunk(2) for m in both), strict=True)
        ]
        return self.decode_pair(*sections, with_residual)

    def encode_sections(self, sections: Tensor) -> SectionFeatures:
        """Features of single sections (B, 1, H, W); both roles share the weights."""
        full = self.section_full(sections)
        return SectionFeatures(full, self.section_half(downsample(full)))

    def decode_pair(
        self, current: SectionFeatures, auxiliary: SectionFeatures, with_residual: bool = True
    ) -> PairLogits:
        """Logits of pairs from the features of their sections; see ``forward``."""
        quarter = self.pair_quarter(downsample(torch.cat([current.half, auxiliary.half], dim=1)))
        eighth = self.pair_eighth(downsample(quarter))
        sixteenth = self.pair_sixteenth(downsample(eighth))

        seg = self.seg_coarse(quarter, eighth, sixteenth)
        residual = None
        if with_residual:
            coarse = self.residual_coarse(quarter, eighth, sixteenth)
            residual = self.residual_fine(coarse, auxiliary, current)
        return PairLogits(
            self.seg_current(seg, current), self.seg_auxiliary(seg, auxiliary), residual
        )


def downsample(x: Tensor) -> Tensor:
    """Max pooling 2x2."""
    return F.max_pool2d(x, 2)
