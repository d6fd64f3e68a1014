"""Augmentation of a pair: every transform alone, then the whole chain.

The synthetic sections are smooth and their masks are the sections above one half, so that a mask
belongs to its section exactly where thresholding the section gives the mask back.
"""

import itertools

import cv2
import numpy as np
import pytest

from dataloader import augment
from dataloader.augment import (
    AffineElastic,
    Flip,
    PairAugmentation,
    anchor_points,
    elastic_field,
    pair_transforms,
    transform_pair,
)

CROP = 128
NAMES = list(pair_transforms(CROP))
SAME_SHAPE_MOVES = ["flip", "rotate", "affine_elastic"]
# The line of the motion blur, not centred, may shift the section by three pixels; the nearest
# neighbour of OpenCV's resize is half a pixel off its linear and cubic interpolation.
LOWEST_OVERLAP = {"motion_blur": 0.8, "resize": 0.93, "random_square": 0.93}


def smooth_pair(height=160, width=224, seed=0):
    """Two different smooth sections in [0.35, 0.65], which no brightness clips, and their masks."""
    noise = np.random.default_rng(seed).standard_normal((2, height, width))
    smooth = np.stack([cv2.GaussianBlur(section, (0, 0), 10) for section in noise])
    smooth -= np.median(smooth, axis=(1, 2), keepdims=True)
    images = (0.5 + 0.15 * smooth / np.abs(smooth).max()).astype(np.float32)
    return images, (images > 0.5).astype(np.uint8)


def ramps(height, width):
    """A pair whose pixels hold their own x (first section) and y (second), from 0 to 1."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / width, y / height]).astype(np.float32)


def certain(name, crop=CROP):
    """One named transform, always applied."""
    transform = pair_transforms(crop)[name]
    transform.p = 1.0
    return transform


def overlap(image, mask):
    """IoU of a mask and of the equally large brightest part of its section."""
    bright = image > np.quantile(image, 1.0 - mask.mean())
    return np.logical_and(bright, mask).sum() / np.logical_or(bright, mask).sum()


def source_affine(transform, height, width, seed):
    """Matrix (2, 3) from pixels of the result to pixels of the section, by least squares.

    Only pixels that look inside the section are used; returns the residuals in pixels too.
    """
    images, _ = transform_pair(transform, ramps(height, width), None, np.random.default_rng(seed))
    source = (images * np.array([width, height]).reshape(2, 1, 1)).reshape(2, -1).T
    y, x = np.mgrid[: images.shape[1], : images.shape[2]].reshape(2, -1)
    design = np.column_stack([x, y, np.ones_like(x)]).astype(float)
    # The ramps are folded at the reflected border; start at the middle, which is not.
    inside = np.hypot(x - images.shape[2] / 2, y - images.shape[1] / 2) < 20
    for _ in range(2):
        matrix = np.linalg.lstsq(design[inside], source[inside], rcond=None)[0].T
        predicted = design @ matrix.T
        inside = np.all((predicted > 3) & (predicted < np.array([width, height]) - 4), axis=1)
    return matrix, (source - predicted)[inside]


@pytest.fixture
def applied(monkeypatch):
    """Log of the named transforms that really ran in a PairAugmentation made by the test."""
    log = []

    def recording(name, run):
        return lambda *args, **kwargs: log.append(name) or run(*args, **kwargs)

    def recorded_transforms(crop):
        named = pair_transforms(crop)
        for name, transform in named.items():
            transform.apply_with_params = recording(name, transform.apply_with_params)
        return named

    monkeypatch.setattr(augment, "pair_transforms", recorded_transforms)
    return log


@pytest.mark.parametrize("name", NAMES)
def test_masks_follow_sections(name):
    images, masks = smooth_pair()
    for seed in range(8):
        out, out_masks = transform_pair(certain(name), images, masks, np.random.default_rng(seed))
        assert out.shape == out_masks.shape
        assert out.dtype == np.float32
        assert out_masks.dtype == np.uint8
        assert set(np.unique(out_masks)) <= {0, 1}
        assert min(map(overlap, out, out_masks)) > LOWEST_OVERLAP.get(name, 0.97)


@pytest.mark.parametrize("name", NAMES)
def test_both_sections_get_one_draw(name):
    images, masks = smooth_pair()
    twins, twin_masks = images[[0, 0]], masks[[0, 0]]
    out, out_masks = transform_pair(certain(name), twins, twin_masks, np.random.default_rng(1))
    np.testing.assert_array_equal(out[0], out[1])
    np.testing.assert_array_equal(out_masks[0], out_masks[1])
    # Swapping the sections swaps the results: neither steers the draw.
    straight, _ = transform_pair(certain(name), images, None, np.random.default_rng(1))
    swapped, _ = transform_pair(certain(name), images[::-1], None, np.random.default_rng(1))
    np.testing.assert_array_equal(straight, swapped[::-1])


@pytest.mark.parametrize("name", NAMES)
def test_residual_is_that_of_the_augmented_masks(name):
    """Both masks move alike: the XOR after a transform is the transform of the XOR."""
    images, masks = smooth_pair()
    _, out = transform_pair(certain(name), images, masks, np.random.default_rng(2))
    residual = np.stack([masks[0] ^ masks[1]] * 2)
    _, moved = transform_pair(certain(name), images, residual, np.random.default_rng(2))
    np.testing.assert_array_equal(out[0] ^ out[1], moved[0])
    if name in ("brightness_contrast", "motion_blur"):
        np.testing.assert_array_equal(out, masks)
    elif name in SAME_SHAPE_MOVES:
        assert (moved[0] != residual[0]).mean() > 0.05


def test_flip_draws_its_three_axes_equally():
    flip = Flip(p=1.0)
    flip.set_random_seed(0)
    axes = [flip.get_params()["axis"] for _ in range(3000)]
    counts = [axes.count(axis) for axis in (0, 1, -1)]
    assert sum(counts) == 3000
    assert max(abs(count - 1000) for count in counts) < 4 * np.sqrt(3000 * 2 / 9)


def test_flip_and_transpose_move_pixels_exactly():
    images, masks = smooth_pair()
    flipped = [images[:, ::-1], images[:, :, ::-1], images[:, ::-1, ::-1]]
    seen = set()
    for seed in range(30):
        out, _ = transform_pair(certain("flip"), images, masks, np.random.default_rng(seed))
        seen.add(next(i for i, one in enumerate(flipped) if np.array_equal(out, one)))
    assert seen == {0, 1, 2}
    out, _ = transform_pair(certain("transpose"), images, masks, np.random.default_rng(0))
    np.testing.assert_array_equal(out, images.transpose(0, 2, 1))


def test_rotation_turns_about_the_centre_and_reflects_the_border():
    height, width = 160, 224
    angles = []
    for seed in range(40):
        matrix, residual = source_affine(certain("rotate"), height, width, seed)
        assert np.abs(residual).max() < 0.05
        linear = matrix[:, :2]
        np.testing.assert_allclose(linear @ linear.T, np.eye(2), atol=2e-3)
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        np.testing.assert_allclose(linear @ centre + matrix[:, 2], centre, atol=0.1)
        angles.append(np.degrees(np.arctan2(linear[0, 1], linear[0, 0])))
    assert np.abs(angles).max() <= 90.1
    assert min(angles) < -60
    assert max(angles) > 60
    images, _ = smooth_pair()
    out, _ = transform_pair(certain("rotate"), images, None, np.random.default_rng(0))
    assert out.min() >= images.min() - 1e-5  # zeros would lie below


def test_resize_keeps_the_whole_section():
    out, _ = transform_pair(certain("resize"), ramps(160, 224), None, np.random.default_rng(0))
    assert out.shape == (2, CROP, CROP)
    middles = (np.arange(CROP) + 0.5) / CROP
    np.testing.assert_allclose(out[0, 5] + 0.5 / 224, middles, atol=2e-3)
    np.testing.assert_allclose(out[1, :, 5] + 0.5 / 160, middles, atol=2e-3)


def test_random_square_has_sides_from_half_the_crop_to_the_crop():
    height, width = 160, 224
    sides, corners = [], []
    for seed in range(60):
        matrix, _ = source_affine(certain("random_square"), height, width, seed)
        side_x, side_y = matrix[0, 0] * CROP, matrix[1, 1] * CROP
        assert side_x == pytest.approx(side_y, abs=0.2)
        np.testing.assert_allclose([matrix[0, 1], matrix[1, 0]], 0, atol=1e-3)
        sides.append(side_x)
        corners.append(matrix[:, 2] - 0.5 * (matrix[0, 0] - 1))
    sides, corners = np.array(sides), np.array(corners)
    assert sides.min() >= CROP / 2 - 0.2
    assert sides.max() <= CROP + 0.2
    assert sides.min() < CROP * 0.55
    assert sides.max() > CROP * 0.95
    assert corners.min() > -0.2
    assert np.all((corners + sides[:, None]).max(axis=0) <= np.array([width, height]) + 0.4)
    assert np.ptp(corners, axis=0).min() > 60


def test_brightness_and_contrast_are_linear_and_clipped():
    images, _ = smooth_pair()
    contrasts, brightnesses = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        out, _ = transform_pair(certain("brightness_contrast"), images, None, rng)
        contrast, brightness = np.polyfit(images[0].ravel(), out[0].ravel(), 1)
        np.testing.assert_allclose(out, contrast * images + brightness, atol=1e-4)
        contrasts.append(contrast)
        brightnesses.append(brightness)
    for drawn, middle in ((contrasts, 1.0), (brightnesses, 0.0)):
        assert middle - 0.2 - 1e-3 <= min(drawn) < middle - 0.15
        assert middle + 0.15 < max(drawn) <= middle + 0.2 + 1e-3
    # A pivot at the mean would tie brightness to contrast.
    assert abs(np.corrcoef(contrasts, brightnesses)[0, 1]) < 0.4
    extremes = np.stack([np.zeros((8, 8)), np.ones((8, 8))]).astype(np.float32)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        out, _ = transform_pair(certain("brightness_contrast"), extremes, None, rng)
        assert out.min() >= 0
        assert out.max() <= 1


def test_motion_blur_kernel_is_a_normalised_line():
    blur = certain("motion_blur")
    blur.set_random_seed(0)
    sizes = set()
    for _ in range(300):
        kernel = blur.get_params()["kernel"]
        sizes.add(kernel.shape)
        cells = np.argwhere(kernel)
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel[kernel > 0], 1 / len(cells), rtol=1e-6)
        assert 2 <= len(cells) == np.ptp(cells, axis=0).max() + 1  # one cell per step
        centred = cells - cells.mean(axis=0)
        assert np.linalg.svd(centred, compute_uv=False)[1] / np.sqrt(len(cells)) < 0.5  # straight
    assert sizes == {(3, 3), (5, 5), (7, 7)}


@pytest.mark.parametrize(("height", "width"), [(192, 192), (160, 224)])
def test_affine_moves_the_three_anchors_within_the_limit(height, width):
    limit = 50 * CROP / 512
    anchors = anchor_points(height, width).astype(float)
    moves = []
    for seed in range(60):
        matrix, residual = source_affine(certain("affine_elastic"), height, width, seed)
        assert np.abs(residual).max() < 0.06  # affine but for the faint field
        moved = np.linalg.solve(matrix[:, :2], anchors.T - matrix[:, 2:]).T
        moves.append(moved - anchors)
    moves = np.array(moves)
    assert np.abs(moves).max() <= limit + 0.1
    assert np.abs(moves).reshape(60, -1).max(axis=0).min() > 0.9 * limit  # each one, x and y
    assert np.abs(moves.mean(axis=0)).max() < 4 * limit / np.sqrt(3 * 60)


def test_affine_agrees_with_a_plain_warp():
    images, masks = smooth_pair(seed=5)
    transform = AffineElastic(anchor_shift=20.0, p=1.0)
    matrix, _ = source_affine(transform, 160, 224, seed=3)
    out, out_masks = transform_pair(transform, images, masks, np.random.default_rng(3))
    for i in range(2):
        warp = {"M": matrix, "dsize": (224, 160), "borderMode": cv2.BORDER_REFLECT_101}
        expected = cv2.warpAffine(images[i], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, **warp)
        np.testing.assert_allclose(out[i], expected, atol=2e-3)
        expected = cv2.warpAffine(masks[i], flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, **warp)
        assert (out_masks[i] != expected).mean() < 2e-3


def test_anchors_of_a_square():
    np.testing.assert_array_equal(anchor_points(192, 192), [[160, 160], [160, 32], [32, 32]])


def test_elastic_field_is_as_faint_and_smooth_as_noise_smoothed_pixel_by_pixel():
    fields = np.stack([elastic_field(400, 480, np.random.default_rng(seed)) for seed in range(20)])
    assert fields.shape == (20, 400, 480, 2)
    assert fields.dtype == np.float32
    inner = fields[:, 150:-150, 150:-150]
    expected = 1 / np.sqrt(3) / (2 * np.sqrt(np.pi) * 50)  # uniform noise under a Gaussian
    assert inner.std() == pytest.approx(expected, rel=0.25)
    steps = np.diff(fields[:, :, 150:-150], axis=2).std()
    assert steps == pytest.approx(expected / (np.sqrt(2) * 50), rel=0.25)
    assert not np.allclose(fields[..., 0], fields[..., 1])


@pytest.mark.parametrize("final_crop", ["random", "centre"])
def test_chain_keeps_pairs_aligned(final_crop, applied):
    images, masks = smooth_pair(192, 256)
    augmentation = PairAugmentation(CROP, final_crop)
    augmented = 0
    for seed in range(120):
        before = len(applied)
        out, out_masks = augmentation(images, masks, seed)
        ran = applied[before:]
        augmented += bool(ran)
        assert out.shape == out_masks.shape == (2, CROP, CROP)
        assert out.dtype == np.float32
        assert out_masks.dtype == np.uint8
        assert out.flags.c_contiguous
        assert out_masks.flags.c_contiguous
        assert 0 <= out.min() <= out.max() <= 1
        assert set(np.unique(out_masks)) <= {0, 1}
        lowest = min([0.93, *(LOWEST_OVERLAP.get(name, 1.0) for name in ran)])
        assert min(map(overlap, out, out_masks)) > lowest
        twins, _ = augmentation(images[[0, 0]], None, seed)
        np.testing.assert_array_equal(twins[0], out[0])
        np.testing.assert_array_equal(twins[1], out[0])
    assert augmented > 15


@pytest.mark.parametrize(("fraction", "least", "most"), [(0, 0, 0), (0.25, 70, 130), (1, 400, 400)])
def test_a_fraction_of_the_pairs_is_augmented(fraction, least, most):
    augmentation = PairAugmentation(CROP, "random", fraction)
    windows = [augmentation.plain_window((192, 256), seed) for seed in range(400)]
    assert least <= windows.count(None) <= most


def test_cubic_overshoot_is_clipped(applied):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2, (2, 40, 40)).astype(np.float32)
    sharp, _ = transform_pair(certain("random_square", 32), images, None, rng)
    assert sharp.min() < 0
    assert sharp.max() > 1
    augmentation = PairAugmentation(32, "random")
    for seed in range(700):
        out, _ = augmentation(images, None, seed)
        assert 0 <= out.min() <= out.max() <= 1
    assert applied.count("random_square") >= 3


def test_masks_do_not_change_the_sections():
    images, masks = smooth_pair()
    augmentation = PairAugmentation(CROP, "random")
    for seed in range(24):
        with_masks, _ = augmentation(images, masks, seed)
        without, none = augmentation(images, None, seed)
        np.testing.assert_array_equal(with_masks, without)
        assert none is None


def test_result_depends_on_the_arguments_only():
    images, masks = smooth_pair()
    before = images.copy(), masks.copy()
    seeds = range(24)
    first = PairAugmentation(CROP, "random")
    results = {seed: first(images, masks, seed) for seed in seeds}
    other = PairAugmentation(CROP, "random")
    for seed in reversed(seeds):
        for out, expected in zip(other(images, masks, seed), results[seed], strict=True):
            np.testing.assert_array_equal(out, expected)
    for a, b in itertools.combinations(seeds, 2):
        assert not np.array_equal(results[a][0], results[b][0])
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(masks, before[1])


def test_result_does_not_share_memory_with_the_sections():
    images, masks = smooth_pair(CROP, CROP)
    for seed in range(12):
        out, out_masks = PairAugmentation(CROP, "centre")(images, masks, seed)
        assert not np.shares_memory(out, images)
        assert not np.shares_memory(out_masks, masks)


def test_share_of_augmented_pairs_and_of_each_transform(applied):
    """One pair in four, and every transform on a draw of its own."""
    images = np.random.default_rng(0).random((2, 16, 16), dtype=np.float32)
    augmentation = PairAugmentation(16, "centre")
    seen = []  # of augmented pairs: the transforms that ran
    calls, flags = 4000, []
    pipeline_run = augment.transform_pair
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            augment, "transform_pair", lambda *args: flags.append(1) or pipeline_run(*args)
        )
        for seed in range(calls):
            applied.clear()
            count = len(flags)
            augmentation(images, None, seed)
            if len(flags) > count:
                seen.append(list(applied))
                flags[-1] = seed
    assert abs(len(seen) / calls - 0.25) < 4 * np.sqrt(0.25 * 0.75 / calls)
    after = np.isin(np.array(flags) + 1, flags).mean()  # the next seed is augmented as often
    assert abs(after - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(seen))

    ran = np.array([[name in names for name in NAMES] for names in seen])
    expected = np.array([0.5, 0.5, 0.5, 0.1, 0.1, 0.5, 0.2, 0.3])
    assert np.all(abs(ran.mean(axis=0) - expected) < 4 * np.sqrt(expected / len(seen)))
    assert not np.any(ran[:, 3] & ran[:, 4])  # either resize or random square
    correlation = np.corrcoef(ran.T) - np.eye(len(NAMES))
    assert np.abs(correlation).max() < 4 / np.sqrt(len(seen)) + 0.02
    order = {name: i for i, name in enumerate(NAMES)}
    assert all(
        [order[name] for name in names] == sorted(order[name] for name in names) for names in seen
    )


@pytest.mark.parametrize("final_crop", ["random", "centre"])
def test_plain_window_is_all_that_is_done_to_three_pairs_in_four(final_crop):
    images, masks = smooth_pair()
    augmentation = PairAugmentation(CROP, final_crop)
    plain = 0
    for seed in range(200):
        window = augmentation.plain_window(images.shape[1:], seed)
        out, out_masks = augmentation(images, masks, seed)
        if window is not None:
            plain += 1
            np.testing.assert_array_equal(out, images[:, *window])
            np.testing.assert_array_equal(out_masks, masks[:, *window])
    assert 0.68 < plain / 200 < 0.82


def test_unaugmented_pairs_are_cut_at_one_place(monkeypatch):
    monkeypatch.setattr(augment, "transform_pair", lambda _, images, masks, rng: (images, masks))
    images = ramps(160, 224)
    masks = (images > 0.5).astype(np.uint8)
    corners = set()
    augmentation = PairAugmentation(CROP, "random")
    for seed in range(300):
        out, out_masks = augmentation(images, masks, seed)
        x, y = round(out[0, 0, 0] * 224), round(out[1, 0, 0] * 160)
        np.testing.assert_array_equal(out, images[:, y : y + CROP, x : x + CROP])
        np.testing.assert_array_equal(out_masks, masks[:, y : y + CROP, x : x + CROP])
        corners.add((x, y))
    xs, ys = (np.array(values) for values in zip(*corners, strict=True))
    assert (xs.min(), xs.max()) == (pytest.approx(0, abs=3), pytest.approx(224 - CROP, abs=3))
    assert (ys.min(), ys.max()) == (0, 160 - CROP)
    out, out_masks = PairAugmentation(CROP, "centre")(images, masks, 0)
    np.testing.assert_array_equal(out, images[:, 16:-16, 48:-48])
    np.testing.assert_array_equal(out_masks, masks[:, 16:-16, 48:-48])


@pytest.mark.parametrize(
    ("height", "width", "crop", "final_crop"),
    [
        (768, 1024, 512, "random"),
        (1024, 768, 512, "centre"),
        (712, 712, 512, "centre"),
        (512, 512, 512, "random"),
        (193, 301, 192, "random"),
    ],
)
def test_published_and_small_sizes(height, width, crop, final_crop):
    images = np.random.default_rng(0).random((2, height, width), dtype=np.float32)
    masks = (images > 0.5).astype(np.uint8)
    augmentation = PairAugmentation(crop, final_crop)
    for seed in range(12):
        out, out_masks = augmentation(images, masks, seed)
        assert out.shape == out_masks.shape == (2, crop, crop)
        assert 0 <= out.min() <= out.max() <= 1


def test_wrong_arguments_are_refused():
    images, masks = smooth_pair()
    augmentation = PairAugmentation(CROP, "random")
    with pytest.raises(ValueError, match="100 x 224 pixels, expected at least 128 x 128"):
        augmentation(images[:, :100], masks[:, :100], 0)
    with pytest.raises(ValueError, match="expected at least 128"):
        augmentation(images[:, :, :127], None, 0)
    with pytest.raises(ValueError, match="expected float32 of shape"):
        augmentation(images.astype(np.float64), None, 0)
    with pytest.raises(ValueError, match="expected float32 of shape"):
        augmentation(images[:1], None, 0)
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        augmentation(images, masks[:, :150], 0)
    with pytest.raises(ValueError, match="expected uint8 of shape"):
        augmentation(images, masks.astype(bool), 0)
    with pytest.raises(ValueError, match="final_crop"):
        PairAugmentation(CROP, "center")
    with pytest.raises(ValueError, match="crop is 1"):
        PairAugmentation(1, "random")
