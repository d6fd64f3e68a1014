"""The two-section segmentation network.

Source: Huang et al., MICCAI 2022, as their released weights have it: InstanceNorm without
parameters where the paper's figure says batch norm, transposed convolutions where it says bilinear.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.normalisation import norm_relu

MEAN_RELU = 1 / math.sqrt(2 * math.pi)  # of a standard normal variable


class PairLogits(NamedTuple):
    """Logit maps (B, 2, H, W) of a pair of sections; channel 1 is mitochondria, or "differs"."""

    current: Tensor
    auxiliary: Tensor
    residual: Tensor | None  # None where the residual decoder was skipped


class SectionFeatures(NamedTuple):
    """What the encoder keeps of one section: maps at full and at half resolution."""

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
    """Double the size by a transposed conv 2x2, append to the skipped maps, ConvBlock."""

    def __init__(self, channels_in: int, channels_skip: int, channels_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels_in, channels_in, 2, stride=2)
        self.block = ConvBlock(channels_skip + channels_in, channels_out)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        return self.block(torch.cat([*skips, self.up(x)], dim=1))


class FineDecoder(nn.Module):
    """From maps at a quarter of the size to two logit maps at full size.

    ``sections`` is how many sections' skipped maps it sees: 1 for a mask, 2 for the residual.
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
    """From the joint maps at 1/16 of the size to maps at 1/4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_eighth = UpBlock(8 * width, 8 * width, 4 * width)
        self.up_quarter = UpBlock(4 * width, 4 * width, 2 * width)

    def forward(self, quarter: Tensor, eighth: Tensor, sixteenth: Tensor) -> Tensor:
        return self.up_quarter(self.up_eighth(sixteenth, eighth), quarter)


class Segmentor(nn.Module):
    """Reads two sections at once; predicts both masks and their inter-section residual.

    Args:
        width: channels at full resolution; even. 64 is the published network of 20,755,814
            parameters.
    """

    SIZE_MULTIPLE = 16  # four poolings: H and W must be multiples of it

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
        """Let the mask heads begin as detectors: with this probability of mitochondria everywhere.

        Their features speak for mitochondria (weights >= 0 in the logit's difference), and the bias
        is -E, E the mean of what they say, plus log(prior / (1 - prior)). As PyTorch initialises
        them, features come to speak for the background, which is most of an image, and are 0 in
        mitochondria: the probability there is the bias's alone, which a short run does not bring
        above 0.6 to 0.75. Source: Lin et al., *Focal loss*, ICCV 2017, for the bias.
        """
        for decoder in (self.seg_current, self.seg_auxiliary):
            head = decoder.head_logits
            head.weight[0], head.weight[1] = -head.weight[0].abs(), head.weight[1].abs()
            said = MEAN_RELU * (head.weight[1] - head.weight[0]).sum()
            half = (math.log(prior / (1 - prior)) - said) / 2
            head.bias[0], head.bias[1] = -half, half

    def forward(self, pair: Tensor, with_residual: bool = True) -> PairLogits:
        """Logits of a pair of sections.

        Args:
            pair: (B, 2, H, W), each section in [0, 1]; H and W multiples of 16.
            with_residual: False saves the residual decoder, about a third of the work.
        """
        both = self.encode_sections(torch.cat([pair[:, :1], pair[:, 1:]]))
        sections = [
            SectionFeatures(*maps) for maps in zip(*(m.chunk(2) for m in both), strict=True)
        ]
        return self.decode_pair(*sections, with_residual)

    def encode_sections(self, sections: Tensor) -> SectionFeatures:
        """Features of single sections (B, 1, H, W); the weights are shared by both roles."""
        full = self.section_full(sections)
        return SectionFeatures(full, self.section_half(downsample(full)))

    def decode_pair(
        self, current: SectionFeatures, auxiliary: SectionFeatures, with_residual: bool = True
    ) -> PairLogits:
        """Logits of pairs from the features of their sections, see ``forward``."""
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
    """Halve the size by max pooling."""
    return F.max_pool2d(x, 2)
