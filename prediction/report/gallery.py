"""Pictures of sections in a report, as embedded JPEG."""

import base64

import cv2
import numpy as np

from dataloader.volume import Volume, evenly_spaced, resample
from prediction.pictures import contours, grey, instances_picture
from prediction.report.tables import column_values

GALLERY, GALLERY_SIDE = 6, 560  # sections shown large, and pixels of their longer side
GALLERY_PART = 1120  # pixels; of larger sections the middle is shown
SHEET, SHEET_SIDE, SHEET_COLUMNS = 24, 200, 6  # sections of the contact sheet
QUALITY = 82  # of JPEG
ONLY_HERE, ONLY_THERE = (213, 94, 0), (0, 114, 178)  # RGB of orange and blue


def gallery(
    raw: Volume,
    masks: Volume,
    labels: Volume | None,
    instances: Volume | None,
    stride: int,
    rows: list[dict[str, str]],
) -> list[dict[str, str]]:
    """Large pictures of evenly spaced sections, by the names that the template has for them."""
    f1 = column_values(rows, "F1")
    entries = []
    for index in evenly_spaced(len(raw), GALLERY):
        other = index + stride if index + stride < len(raw) else index - stride
        name = raw.names[index]
        scored = index < len(f1) and np.isfinite(f1[index])
        entry = {"name": name, "score": f"F1 {f1[index]:.3f}" if scored else ""}
        small = fitting(_middle(raw, index).shape, GALLERY_SIDE)
        image = resample(_middle(raw, index), small)
        mask = _small(_middle(masks, index), small)
        label = None if labels is None else _small(_middle(labels, index) == 1, small)
        entry["contours"] = _jpeg(contours(image, mask, label, 1))
        if 0 <= other < len(raw):
            there = _small(_middle(masks, other), small)
            entry["residual"] = _jpeg(_residual(image, mask, there))
            entry["other"] = raw.names[other]
        if instances is not None:
            numbers = _nearest(_middle(instances, index), small)
            entry["instances"] = _jpeg(instances_picture(image, numbers))
        entries.append(entry)
    return entries


def _middle(volume: Volume, index: int) -> np.ndarray:
    """A section, or the middle of a large one."""
    _, height, width = volume.shape
    y, x = (max(0, (side - GALLERY_PART) // 2) for side in (height, width))
    return volume.crop(index, y, x, GALLERY_PART, GALLERY_PART)


def _residual(image: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    picture = grey(image) // 2 + 64
    picture[(here > 0) & (there == 0)] = ONLY_HERE
    picture[(here == 0) & (there > 0)] = ONLY_THERE
    return picture


def contact_sheet(raw: Volume, masks: Volume) -> str:
    """One picture with thumbnails of evenly spaced sections and their predicted masks."""
    panels = []
    for index in evenly_spaced(len(raw), SHEET):
        small = fitting(raw.shape[1:], SHEET_SIDE)
        mask = _small(masks.section(index), small)
        panel = contours(resample(raw.section(index), small), mask, None, 1)
        text = str(index)
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                panel, text, (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA
            )
        panels.append(np.pad(panel, ((2, 2), (2, 2), (0, 0)), constant_values=255))
    columns = min(SHEET_COLUMNS, len(panels))
    blank = np.full_like(panels[0], 255)
    panels += [blank] * (-len(panels) % columns)
    lines = [
        np.concatenate(panels[start : start + columns], axis=1)
        for start in range(0, len(panels), columns)
    ]
    return _jpeg(np.concatenate(lines))


def fitting(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """A shape scaled down so that its longer side is at most ``side``."""
    scale = min(1.0, side / max(shape))
    height, width = (max(1, round(length * scale)) for length in shape)
    return height, width


def _small(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return (resample(mask.astype(np.float32), shape) >= 0.5).astype(np.uint8)


def _nearest(numbers: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.arange(length) * full // length
        for length, full in zip(shape, numbers.shape, strict=True)
    )
    return numbers[np.ix_(rows, columns)]


def _jpeg(picture: np.ndarray) -> str:
    """An RGB picture as the data URL of a JPEG."""
    bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()
