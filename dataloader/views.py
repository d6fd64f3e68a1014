"""Other looks of a section: what a microscope might have made of it, and what is hidden of it.

``strong_view`` is what a student sees while its teacher sees the section plain, as in Yin et al.,
*CAFA*, MICCAI 2023, drawn for each section by itself: what two sections show alike is then the
tissue. ``other_microscope`` makes the labelled source look as many ways as microscopes do (domain
randomisation, Tobin et al., IROS 2017). Hidden blocks are those of Hoyer et al., *MIC*, CVPR 2023,
with the section's mean in place of 0, which is black here; two views of which each shows what the
other hides, those of Wang et al., *MaskTwins*, ICML 2025.
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
HOLES, HOLE = 6, (1 / 24, 1 / 8)  # at most so many; side as a share of the section's
BLOCKS = 16  # in a row


def strong_view(section: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A section (H, W) float32 in [0, 1] with noise, blur, another brightness, and holes."""
    seen = _photometric(section, draw, gamma=(0.8, 1.25), shading=0.0)
    height, width = section.shape
    for _ in range(int(draw.integers(HOLES + 1))):
        size = [max(1, int(draw.uniform(*HOLE) * side)) for side in (height, width)]
        y, x = int(draw.integers(height - size[0] + 1)), int(draw.integers(width - size[1] + 1))
        seen[y : y + size[0], x : x + size[1]] = seen.mean()
    return seen


def other_microscope(
    images: np.ndarray, masks: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A pair as another microscope might show it: both sections alike, but for their noise.

    Args:
        images: (2, H, W) float32 in [0, 1].
        masks: (2, H, W) uint8 of 0 and 1, which follow the change of scale.
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
        _photometric(image, np.random.default_rng(state), GAMMA, SHADING, noise=noise)
        for image, noise in zip(images, draw.spawn(2), strict=True)
    ]
    return np.stack(seen), np.stack(masks)


def draw_blocks(shape: tuple[int, int], fraction: float, draw: np.random.Generator) -> np.ndarray:
    """A mask (H, W), bool, of 16 x 16 blocks, each of which is chosen by the probability given."""
    chosen = (draw.random((BLOCKS, BLOCKS)) < fraction).astype(np.uint8)
    return cv2.resize(chosen, shape[::-1], interpolation=cv2.INTER_NEAREST) > 0


def hide(section: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """A section (H, W) that shows nothing but its mean where ``hidden`` (H, W) says so."""
    return np.where(hidden, section.mean(), section).astype(np.float32)


def _photometric(
    section: np.ndarray,
    draw: np.random.Generator,
    gamma: tuple[float, float],
    shading: float,
    noise: np.random.Generator | None = None,
) -> np.ndarray:
    """Gamma, contrast, brightness, shading, blur and noise, each of them half of the time."""
    on = draw.random(6) < 0.5
    power = float(np.exp(draw.uniform(*np.log(gamma))))
    contrast = float(np.exp(draw.uniform(*np.log(CONTRAST))))
    brightness = float(draw.uniform(-BRIGHTNESS, BRIGHTNESS))
    slope = draw.normal(size=2)
    blur, grain = float(draw.uniform(*BLUR)), float(draw.uniform(*NOISE))
    seen = section**power if on[0] else section.copy()
    if on[1]:
        seen = (seen - seen.mean()) * contrast + seen.mean()
    if on[2]:
        seen = seen + brightness
    if on[3] and shading:
        slope *= shading / max(1e-6, float(np.abs(slope).sum()))
        axes = (np.linspace(-1, 1, side, dtype=np.float32) for side in section.shape)
        y, x = np.meshgrid(*axes, indexing="ij")
        seen = seen + slope[0] * y + slope[1] * x
    if on[4] and blur > 0.3:
        seen = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), blur)
    if on[5]:
        seen = seen + grain * (noise or draw).standard_normal(section.shape, np.float32)
    return np.clip(seen, 0, 1).astype(np.float32)
