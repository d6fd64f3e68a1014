"""Domain randomisation: change a labelled pair as if another microscope had imaged it.

Source of the idea: Tobin et al., IROS 2017. The parameters are our choice: scale, gamma, contrast,
brightness, shading, blur and noise.
"""

import cv2
import numpy as np

NOISE = (0.0, 0.1)  # standard deviation, for sections in [0, 1]
BLUR = (0.0, 2.0)  # standard deviation, pixels
BRIGHTNESS = 0.2
CONTRAST = (0.6, 1.5)
GAMMA = (0.5, 2.0)
SHADING = 0.3  # amplitude of a linear brightness gradient
SCALE = (0.75, 1.33)


def randomise_domain(
    images: np.ndarray, masks: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Randomise a pair. Both sections get the same parameters, but independent noise.

    Args:
        images: (2, H, W) float32 in [0, 1].
        masks: (2, H, W) uint8; they change with the scale only.
        rng: source of the parameters.

    Returns:
        Images and masks of the same shapes and dtypes.
    """
    scale = float(np.exp(rng.uniform(*np.log(SCALE))))
    height, width = images.shape[1:]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 0, scale)
    border = {"dsize": (width, height), "borderMode": cv2.BORDER_REFLECT_101}
    images = [cv2.warpAffine(i, matrix, flags=cv2.INTER_LINEAR, **border) for i in images]
    masks = [cv2.warpAffine(m, matrix, flags=cv2.INTER_NEAREST, **border) for m in masks]
    state = rng.integers(2**32)
    changed = [
        _photometric(image, np.random.default_rng(state), noise_rng)
        for image, noise_rng in zip(images, rng.spawn(2), strict=True)
    ]
    return np.stack(changed), np.stack(masks)


def _photometric(
    section: np.ndarray, rng: np.random.Generator, noise_rng: np.random.Generator
) -> np.ndarray:
    """Gamma, contrast, brightness, shading, blur and noise, each with probability one half."""
    on = rng.random(6) < 0.5
    gamma = float(np.exp(rng.uniform(*np.log(GAMMA))))
    contrast = float(np.exp(rng.uniform(*np.log(CONTRAST))))
    brightness = float(rng.uniform(-BRIGHTNESS, BRIGHTNESS))
    slope = rng.normal(size=2)
    blur, noise = float(rng.uniform(*BLUR)), float(rng.uniform(*NOISE))
    image = section**gamma if on[0] else section.copy()
    if on[1]:
        image = (image - image.mean()) * contrast + image.mean()
    if on[2]:
        image = image + brightness
    if on[3]:
        slope *= SHADING / max(1e-6, float(np.abs(slope).sum()))
        axes = (np.linspace(-1, 1, side, dtype=np.float32) for side in section.shape)
        y, x = np.meshgrid(*axes, indexing="ij")
        image = image + slope[0] * y + slope[1] * x
    if on[4] and blur > 0.3:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), blur)
    if on[5]:
        image = image + noise * noise_rng.standard_normal(section.shape, np.float32)
    return np.clip(image, 0, 1).astype(np.float32)
