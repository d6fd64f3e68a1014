"""Inference written down plainly, to compare with."""

import numpy as np
import torch

from dataloader.volume import normalise
from prediction.predictor import PairPredictor

CUBES = ("DATA.section_spacing_target=10", "DATA.pixel_size_target=10")
SLICES = (*CUBES, "TEST.orthoplane=true")


def options(sets: tuple[str, ...]) -> list[str]:
    """Settings as a command takes them."""
    return [part for value in sets for part in ("--set", value)]


def predicted(
    predict: PairPredictor, sections: np.ndarray, stride: int, padded: tuple[int, int]
) -> np.ndarray:
    """Whole sections, the mean over all the pairs (i, i + stride) that each is in.

    Args:
        predict: the network.
        sections: (N, H, W) grey values, N at least two strides.
        stride: between the sections of a pair.
        padded: (height, width) to which sections are reflect-padded.

    Returns:
        (N, H, W) float32 probabilities.
    """
    spare = [side - own for side, own in zip(padded, sections.shape[1:], strict=True)]
    padding = [(0, 0), *((pixels // 2, pixels - pixels // 2) for pixels in spare)]
    scaled = np.stack([normalise(section) for section in sections])
    images = torch.from_numpy(np.pad(scaled, padding, mode="reflect"))
    total, count = np.zeros(images.shape, np.float32), np.zeros((len(images), 1, 1), np.float32)
    for first in range(len(images) - stride):
        pair = [first, first + stride]
        features = (predict.encode(images[index][None]) for index in pair)
        total[pair] += predict.decode(*features)[0].numpy()
        count[pair] += 1
    (top, _), (left, _) = padding[1:]
    height, width = sections.shape[1:]
    return (total / count)[:, top : top + height, left : left + width]


def predicted_in_tiles(
    predict: PairPredictor, sections: np.ndarray, stride: int, tile: int, pad: int
) -> np.ndarray:
    """Tiles at half their side over sections reflect-padded by ``pad``, summed by their weight.

    A tile's pixel counts 1e-6 + exp(-d^2 / (2 x 0.2^2)), d its distance from the tile's centre
    with the half side as 1.

    Args:
        predict: the network.
        sections: (N, H, W) grey values; H + 2 pad and W + 2 pad are multiples of half a tile.
        stride: between the sections of a pair.
        tile: side of the tiles, pixels.
        pad: pixels of padding on each side.

    Returns:
        (N, H, W) float32 probabilities.
    """
    scaled = np.stack([normalise(section) for section in sections])
    images = np.pad(scaled, [(0, 0), (pad, pad), (pad, pad)], mode="reflect")
    place = np.linspace(-1, 1, tile)
    weight = 1e-6 + np.exp(-(place[:, None] ** 2 + place**2) / (2 * 0.2**2))
    total, count = np.zeros(images.shape), np.zeros(images.shape)
    for first in range(len(images) - stride):
        pair = [first, first + stride]
        for y in range(0, images.shape[1] - tile + 1, tile // 2):
            for x in range(0, images.shape[2] - tile + 1, tile // 2):
                window = np.s_[pair, y : y + tile, x : x + tile]
                features = (predict.encode(part[None]) for part in torch.from_numpy(images[window]))
                total[window] += weight * predict.decode(*features)[0].numpy()
                count[window] += weight
    return (total / count)[:, pad:-pad, pad:-pad].astype(np.float32)
