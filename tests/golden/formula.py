"""Formula-made weights and inputs, as the golden numbers' README gives them."""

import zlib

import numpy as np
import torch
from torch import nn

from model.published import published_key


def fill_weights(network: nn.Module, prefix: str, rename=lambda key: key) -> nn.Module:
    """Fill every parameter by its published key: sin(0.739 j + phase) sqrt(2 / fan)."""
    with torch.no_grad():
        for key, parameter in network.named_parameters():
            phase = zlib.crc32(f"{prefix}{rename(key)}".encode()) % 1000 / 1000 * 2 * np.pi
            fan = parameter.numel() / parameter.shape[0] if parameter.dim() >= 2 else 16
            wave = np.sin(0.7390851 * np.arange(parameter.numel()) + phase) * np.sqrt(2 / fan)
            parameter.copy_(torch.from_numpy(wave.astype(np.float32)).view_as(parameter))
    return network


def fill_segmentor(network: nn.Module) -> nn.Module:
    """The golden segmentor."""
    return fill_weights(network, "segmentor.", published_key)


def moving_blobs(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A volume of ``blobs`` that move on from section to section.

    Args:
        seed: of the blobs.
        shape: (sections, height, width).

    Returns:
        Sections and their masks, uint8, of 0 to 255 and of 0 and 255.
    """
    sections, height, width = shape
    draw = np.random.RandomState(seed)
    centres = draw.uniform(0.15, 0.85, (6, 2)) * (height, width)
    radii = draw.uniform(0.06, 0.14, 6) * min(height, width)
    velocities = draw.uniform(-2, 2, (6, 2))
    z, y, x = np.mgrid[:sections, :height, :width].astype(float)
    volume, mask = 0.6 + 0.1 * np.sin(0.31 * x + z) * np.cos(0.23 * y), np.zeros(shape, bool)
    for centre, radius, velocity in zip(centres, radii, velocities, strict=True):
        cy, cx = (centre[axis] + velocity[axis] * z for axis in (0, 1))
        distance = np.hypot(y - cy, x - cx)
        volume -= 0.35 * np.exp(-((distance / radius) ** 4))
        mask |= distance < radius
    volume = (volume - volume.min()) / (volume.max() - volume.min())
    return np.rint(volume * 255).astype(np.uint8), mask.astype(np.uint8) * 255


def blobs(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A pair of sections (2, size, size) float64 in [0, 1] and its masks, int64 of 0 and 1."""
    draw = np.random.RandomState(seed)
    centres = draw.uniform(0.15, 0.85, (6, 2)) * size
    radii = draw.uniform(0.06, 0.14, 6) * size
    velocities = draw.uniform(-2, 2, (6, 2))
    y, x = np.mgrid[:size, :size].astype(float)
    images, masks = [], []
    for z in (0, 1):
        image = 0.6 + 0.1 * np.sin(0.31 * x + z) * np.cos(0.23 * y)
        mask = np.zeros((size, size), bool)
        for centre, radius, velocity in zip(centres, radii, velocities, strict=True):
            cy, cx = centre + velocity * z
            distance = np.hypot(y - cy, x - cx)
            image -= 0.35 * np.exp(-((distance / radius) ** 4))
            mask |= distance < radius
        image = (image - image.min()) / (image.max() - image.min())
        images.append(image.astype(np.float32).astype(np.float64))
        masks.append(mask.astype(np.int64))
    return np.stack(images), np.stack(masks)
