"""Pairs as other microscopes might show them: domain randomisation of the labelled source.

Source: Tobin et al., IROS 2017. What is drawn is ours: scale, gamma, contrast, brightness, shading,
blur and noise.
"""

import cv2
import numpy as np

NOISE = (0.0, 0.1)  # standard deviation; sections are in [0, 1]
BLUR = (0.0, 2.0)  # standard deviation, pixels
BRIGHTNESS = 0.2
CONTRAST = (0.6, 1.5)
GAMMA = (0.5, 2.0)
SHADING = 0.3  # amplitude of what is brighter on one side than on the other
SCALE = (0.75, 1.33)


def other_microscope(
    images: np.ndarray, masks: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A pair as another microscope might show it: both sections alike, but for their noise.

    Args:
        images: (2, H, W) float32 in [0, 1].
        masks: (2, H, W) uint8, which follow the change of scale.
        draw: of random numbers.
    """
    scale = float(np.exp(draw.uniform(*np.log(SCALE))))
    height, width = images.shape[1:]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, scale)
    border = {"dsize": (width, height), "borderMode": cv2.BORDER_REFLECT_101}
    images = [cv2.warpAffine(i, matrix, flags=cv2.INTER_LINEAR, **border) for i in images]
    masks = [cv2.warpAffine(m, matrix, flags=cv2.INTER_NEAREST, **border) for m in masks]
    state = draw.integers(2**32)
    seen = [
        _photometric(image, np.random.default_rng(state), noise)
        for image, noise in zip(images, draw.spawn(2), strict=True)
    ]
    return np.stack(seen), np.stack(masks)


def _photometric(
    section: np.ndarray, draw: np.random.Generator, noise: np.random.Generator
) -> np.ndarray:
    """Gamma, contrast, brightness, shading, blur and noise, each of them half of the time."""
    on = draw.random(6) < 0.5
    power = float(np.exp(draw.uniform(*np.log(GAMMA))))
    contrast = float(np.exp(draw.uniform(*np.log(CONTRAST))))
    brightness = float(draw.uniform(-BRIGHTNESS, BRIGHTNESS))
    slope = draw.normal(size=2)
    blur, grain = float(draw.uniform(*BLUR)), float(draw.uniform(*NOISE))
    seen = section**power if on[0] else section.copy()
    if on[1]:
        seen = (seen - seen.mean()) * contrast + seen.mean()
    if on[2]:
        seen = seen + brightness
    if on[3]:
        slope *= SHADING / max(1e-6, float(np.abs(slope).sum()))
        axes = (np.linspace(-1, 1, side, dtype=np.float32) for side in section.shape)
        y, x = np.meshgrid(*axes, indexing="ij")
        seen = seen + slope[0] * y + slope[1] * x
    if on[4] and blur > 0.3:
        seen = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), blur)
    if on[5]:
        seen = seen + grain * noise.standard_normal(section.shape, np.float32)
    return np.clip(seen, 0, 1).astype(np.float32)
