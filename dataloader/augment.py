"""Random augmentation of a pair of sections and of their masks.

Both sections of a sample and both masks always get the same random transform, because the residual
label is the XOR of the two masks.

Source: Huang et al. 2022, semantics of albumentations 1.3.0. Version 2.0.8 has no Flip, no affine
part in ElasticTransform and another motion blur, so these three are implemented here.
"""

from __future__ import annotations

import math
import os
import random
from typing import Any, Literal, get_args

import cv2
import numpy as np

# Otherwise albumentations looks for a newer version online when it is imported.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
from albumentations.core.type_definitions import Targets

from utils.ignore import IGNORE

FinalCrop = Literal["random", "centre"]

AUGMENTED_FRACTION = 0.25  # of the samples, as published
PUBLISHED_CROP = 512
PUBLISHED_ANCHOR_SHIFT = 50.0  # pixels, at the published crop
ELASTIC_ALPHA = 1.0
ELASTIC_SIGMA = 50.0  # pixels
_FIELD_STRIDE = 10  # pixels; a fifth of sigma, fine enough for a field this smooth


class Flip(A.DualTransform):
    """Flip along y, x or both, with equal probability.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0 (Flip, removed in 2.0).
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def get_params(self) -> dict[str, int]:
        return {"axis": self.py_random.choice((0, 1, -1))}  # OpenCV: 0 is y, 1 is x, -1 is both

    def apply(self, img: np.ndarray, axis: int, **params: Any) -> np.ndarray:
        return cv2.flip(img, axis)


class LineBlur(A.ImageOnlyTransform):
    """Motion blur along a line between two random cells of a kernel of side 3, 5 or 7.

    The line need not pass through the centre of the kernel, so the image may also shift by up to
    three pixels. MotionBlur of albumentations 2.0.8 draws an angle, a direction and a shift
    instead, and cannot be configured to give the same lines.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0 (MotionBlur).
    """

    _targets = (Targets.IMAGE,)
    kernel_sizes = (3, 5, 7)

    def get_params(self) -> dict[str, np.ndarray]:
        size = self.py_random.choice(self.kernel_sizes)
        x1, x2 = (self.py_random.randrange(size) for _ in range(2))
        if x1 == x2:  # the two ends must differ
            y1, y2 = self.py_random.sample(range(size), 2)
        else:
            y1, y2 = (self.py_random.randrange(size) for _ in range(2))
        line = cv2.line(np.zeros((size, size), np.uint8), (x1, y1), (x2, y2), color=1)
        return {"kernel": line.astype(np.float32) / line.sum()}

    def apply(self, img: np.ndarray, kernel: np.ndarray, **params: Any) -> np.ndarray:
        return cv2.filter2D(img, ddepth=-1, kernel=kernel)


class AffineElastic(A.DualTransform):
    """Random affine that moves three anchor points, followed by a weak, smooth elastic field.

    The anchors are at the centre + (s, s), (s, -s) and (-s, -s), where s is a third of the shorter
    side. Each moves by up to `anchor_shift` pixels in x and in y. The border is reflected. Images
    are interpolated linearly, masks by nearest neighbour.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0 (ElasticTransform, alpha_affine).

    Args:
        anchor_shift: largest shift of an anchor in x and in y, in pixels.
        p: probability of applying the transform.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, anchor_shift: float, p: float = 0.5):
        super().__init__(p=p)
        self.anchor_shift = anchor_shift

    def get_params_dependent_on_data(
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, np.ndarray]:
        height, width = params["shape"][:2]
        anchors = anchor_points(height, width)
        shift = self.random_generator.uniform(-self.anchor_shift, self.anchor_shift, anchors.shape)
        affine = cv2.getAffineTransform(anchors, (anchors + shift).astype(np.float32))
        # The field is applied to the result of the affine. The inverse affine of the displaced
        # grid combines both, so each pixel is interpolated once.
        grid = elastic_field(height, width, self.random_generator)
        grid[..., 0] += np.arange(width, dtype=np.float32)
        grid[..., 1] += np.arange(height, dtype=np.float32)[:, None]
        return {"lookup": cv2.transform(grid, cv2.invertAffineTransform(affine))}

    def apply(self, img: np.ndarray, lookup: np.ndarray, **params: Any) -> np.ndarray:
        return cv2.remap(img, lookup, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    def apply_to_mask(self, mask: np.ndarray, lookup: np.ndarray, **params: Any) -> np.ndarray:
        return cv2.remap(mask, lookup, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT_101)


def anchor_points(height: int, width: int) -> np.ndarray:
    """Anchor points of the random affine, float32, shape (3, 2), as (x, y) in pixels.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0. That version uses
    (height / 2, width / 2) as the (x, y) of the centre. We do the same; it makes a difference only
    for sections that are not square, whose corners far from the anchors move further.
    """
    third = min(height, width) // 3
    centre = np.array([height // 2, width // 2])
    return (centre + third * np.array([[1, 1], [1, -1], [-1, -1]])).astype(np.float32)


def elastic_field(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Displacement field: white noise in [-1, 1] smoothed with a sigma of 50 pixels.

    Averaging over 50 pixels leaves a standard deviation of 0.003 pixels. For speed, the field is
    smoothed on a coarse grid and then upsampled.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0 (alpha 1, sigma 50).

    Args:
        height: rows of the section.
        width: columns of the section.
        rng: source of the noise.

    Returns:
        Displacements (x, y) in pixels, float32, shape (height, width, 2).
    """
    coarse_shape = (-(-height // _FIELD_STRIDE), -(-width // _FIELD_STRIDE), 2)
    noise = rng.uniform(-1.0, 1.0, coarse_shape).astype(np.float32)
    sigma = ELASTIC_SIGMA / _FIELD_STRIDE
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    # A coarse cell covers stride^2 pixels, whose mean noise is smaller by a factor of stride.
    smooth *= ELASTIC_ALPHA / _FIELD_STRIDE
    return cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)


def pair_transforms(crop: int) -> dict[str, A.BasicTransform]:
    """The individual transforms by name, in order, each with its own probability.

    At most one of "resize" and "random_square" is applied; their probabilities are weights.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0.

    Args:
        crop: side of the square patch in pixels; 512 as published. The random square and the
            shift of the anchors scale with it.

    Returns:
        Transforms for images (H, W, 2) float32 and masks (H, W, 2) uint8.
    """
    return {
        "flip": Flip(p=0.5),
        "transpose": A.Transpose(p=0.5),
        # 1.3.0 reflects the border by default, 2.0.8 fills it with zeros.
        "rotate": A.Rotate(limit=(-90, 90), border_mode=cv2.BORDER_REFLECT_101, p=0.5),
        "resize": A.Resize(crop, crop, p=1.0),
        "random_square": A.RandomSizedCrop(
            min_max_height=(crop // 2, crop),
            size=(crop, crop),
            interpolation=cv2.INTER_CUBIC,
            p=1.0,
        ),
        # clip(image * contrast + brightness) as in 1.3.0. Contrary to its documentation, 2.0.8
        # does not subtract the mean.
        "brightness_contrast": A.RandomBrightnessContrast(
            brightness_limit=(-0.2, 0.2), contrast_limit=(-0.2, 0.2), brightness_by_max=True, p=0.5
        ),
        "motion_blur": LineBlur(p=0.2),
        "affine_elastic": AffineElastic(PUBLISHED_ANCHOR_SHIFT * crop / PUBLISHED_CROP, p=0.3),
    }


def transform_pair(
    transform: A.BasicTransform | A.BaseCompose,
    images: np.ndarray,
    masks: np.ndarray | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply a transform to both sections and both masks with the same random parameters.

    Args:
        transform: any transform or composition of albumentations.
        images: the two sections, shape (2, H, W), float32 in [0, 1].
        masks: their masks, shape (2, H, W), uint8, or None.
        rng: source of the parameters, which do not depend on the masks.

    Returns:
        Sections (2, H', W') and masks (2, H', W') or None, as non-contiguous views. Cubic
        interpolation may leave [0, 1].
    """
    # As two channels of one image, both sections get the same parameters in one pass.
    data = {"image": np.stack(images, axis=-1)}
    if masks is not None:
        data["mask"] = np.stack(masks, axis=-1)
    # Not set_random_seed: in 2.0.8 it seeds every transform with the same number, so all
    # transforms with equal probabilities would be applied together.
    transform.set_random_state(rng, random.Random(int(rng.integers(2**63))))
    data = transform(**data)
    mask = data.get("mask")
    return np.moveaxis(data["image"], -1, 0), None if mask is None else np.moveaxis(mask, -1, 0)


class PairAugmentation:
    """Augments some pairs of sections, as published one in four, and crops every pair.

    A pair is augmented with an outer and an inner probability, as published one half each. Both
    sections and both masks get the same transform and the same crop.

    Source: Huang et al. 2022, semantics of albumentations 1.3.0.

    Args:
        crop: side of the square crop in pixels; 512 as published.
        final_crop: position of the crop after the augmentation: "random" for whole sections
            (folder data), "centre" for crops with a margin (HDF5 data).
        fraction: of the pairs that are augmented, in [0, 1].

    Raises:
        ValueError: if `crop` is below 2 or `final_crop` is unknown.
    """

    def __init__(
        self, crop: int, final_crop: FinalCrop, fraction: float = AUGMENTED_FRACTION
    ) -> None:
        if crop < 2:
            raise ValueError(f"crop is {crop}, expected at least 2 pixels: set a larger crop")
        if final_crop not in get_args(FinalCrop):
            raise ValueError(
                f"final_crop is {final_crop!r}, expected one of {get_args(FinalCrop)}: set one"
            )
        self.crop = crop
        self.final_crop = final_crop
        self.probability = math.sqrt(fraction)  # outer and inner
        named = pair_transforms(crop)
        self._pipeline = A.Compose(
            [
                named["flip"],
                named["transpose"],
                named["rotate"],
                A.OneOf([named["resize"], named["random_square"]], p=0.2),
                named["brightness_contrast"],
                named["motion_blur"],
                named["affine_elastic"],
            ]
        )

    def __call__(
        self, images: np.ndarray, masks: np.ndarray | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Augment and crop one pair. The result depends on the arguments only.

        Args:
            images: current and auxiliary section, shape (2, H, W), float32 in [0, 1], H and W at
                least `crop`.
            masks: their masks, shape (2, H, W), uint8 of 0, 1 and 255 (``utils.ignore``), or None.
                The sections returned do not depend on them.
            seed: non-negative; results of different seeds are independent.

        Returns:
            Sections, shape (2, crop, crop), float32 in [0, 1], and masks, shape (2, crop, crop),
            uint8 of 0, 1 and 255, or None. Both are contiguous copies.

        Raises:
            ValueError: if the arrays have the wrong shape or dtype, or are smaller than `crop`.
        """
        self._check(images, masks)
        augmented, rng = self._draw(seed)
        if augmented:
            images, masks = transform_pair(self._pipeline, images, masks, rng)
        window = (slice(None), *self._window(images.shape[1:], rng))
        # Cubic interpolation (random square) overshoots [0, 1] at sharp edges.
        images = np.clip(images[window], 0.0, 1.0, order="C")
        if masks is not None:
            masks = masks[window]
            masks = np.where(masks == IGNORE, masks, masks > 0.5).astype(np.uint8, order="C")
        return images, masks

    def plain_window(self, shape: tuple[int, int], seed: int) -> tuple[slice, slice] | None:
        """Rows and columns of the crop if a call with this seed only crops; else None.

        Most pairs are only cropped. The caller can then read that window alone.

        Args:
            shape: (H, W) of the sections passed to the call.
            seed: seed of the call.
        """
        augmented, rng = self._draw(seed)
        return None if augmented else self._window(shape, rng)

    def _draw(self, seed: int) -> tuple[bool, np.random.Generator]:
        """Whether a pair is augmented, and the generator of all further random numbers."""
        rng = np.random.default_rng(seed)
        outer, inner = rng.random(2) < self.probability
        return bool(outer and inner), rng

    def _window(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
        """Rows and columns of the crop in sections of a shape (H, W)."""
        margins = [side - self.crop for side in shape]
        if self.final_crop == "random":
            starts = [int(rng.integers(margin, endpoint=True)) for margin in margins]
        else:
            starts = [margin // 2 for margin in margins]
        rows, columns = (slice(start, start + self.crop) for start in starts)
        return rows, columns

    def _check(self, images: np.ndarray, masks: np.ndarray | None) -> None:
        """Raise ValueError for arrays that cannot be augmented and cropped."""
        if images.ndim != 3 or images.shape[0] != 2 or images.dtype != np.float32:
            raise ValueError(
                f"images are {images.dtype} of shape {images.shape}, expected float32 of shape "
                "(2, H, W): stack the two sections and scale them to [0, 1]"
            )
        if masks is not None and (masks.shape != images.shape or masks.dtype != np.uint8):
            raise ValueError(
                f"masks are {masks.dtype} of shape {masks.shape}, expected uint8 of shape "
                f"{images.shape}: pass one mask for each section, or None"
            )
        height, width = images.shape[1:]
        if min(height, width) < self.crop:
            raise ValueError(
                f"the sections are {height} x {width} pixels, expected at least "
                f"{self.crop} x {self.crop}: set a smaller crop or use larger sections"
            )
