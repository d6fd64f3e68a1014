"""Pictures of the section that a run predicts worst, and all of them side by side."""

import csv
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from dataloader.formats.opening import open_volume
from dataloader.part import PartVolume, central
from dataloader.partial_labels import labels_to_score
from dataloader.roles import open_images, open_labels
from dataloader.volume import resample
from prediction.metrics import THRESHOLD
from prediction.outputs import PREDICTIONS, SECTIONS
from prediction.pictures import contours, grey, stacked
from prediction.report.gallery import fitting
from training.study.spec import Run
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace

PART = 800  # pixels; of larger sections the middle is drawn
SIDE = 400  # pixels of the longer side of a panel
COLUMNS = 3
TITLE = 44  # pixels of two lines of text
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 85]


class Panel(NamedTuple):
    """A picture and the two lines above it."""

    path: Path
    title: str
    below: str


def worst_picture(workspace: Workspace, run: Run, checkpoint: str) -> Path:
    """Where the picture of a run's worst section is."""
    return workspace.logs(run.name) / f"worst-{Path(checkpoint).stem}.jpg"


def draw_worst(workspace: Workspace, run: Run, checkpoint: str) -> dict[str, Any]:
    """Draw the section of a finished prediction that has the lowest F1, of a large one the middle.

    Returns:
        Its name, as ``section``, and its ``F1``.
    """
    folder = workspace.inference(run.model)
    name, f1 = _worst(folder / SECTIONS)
    overrides = [*run.overrides, "DATA.pixel_size_working=null"]  # the volume's own grid
    data = load_config(run.config, overrides, CONFIG_DIR).config.DATA
    images = open_images(workspace, data, "val", keep=False)
    labels = labels_to_score(open_labels(workspace, data, "val", keep=False), images)
    predicted = open_volume(folder / PREDICTIONS, keep=False)
    index = images.names.index(name)
    middle = (1, *(min(side, PART) for side in images.shape[1:]))
    whole = (PartVolume(v, (index, 0, 0), (1, *v.shape[1:])) for v in (images, predicted, labels))
    section, probability, mask = (central(volume, middle).section(0) for volume in whole)
    shape = fitting(middle[1:], SIDE)
    masks = (probability >= THRESHOLD, mask == 1)
    found, label = (resample(each.astype(np.float32), shape) >= THRESHOLD for each in masks)
    picture = contours(resample(section, shape), found, label, thickness=1)
    path = worst_picture(workspace, run, checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), QUALITY)
    return {"section": name, "F1": f1}


def _worst(table: Path) -> tuple[str, float]:
    with table.open(newline="", encoding="utf-8") as file:
        scored = {row["name"]: float(row["F1"]) for row in csv.DictReader(file) if row["F1"]}
    return min(scored.items(), key=itemgetter(1))


def draw_panels(panels: list[Panel], path: Path) -> None:
    """Write pictures in rows of three, each with its title."""
    drawn = [_titled(panel) for panel in panels]
    drawn += [np.full_like(drawn[0], 255)] * (-len(drawn) % COLUMNS)
    starts = range(0, len(drawn), COLUMNS)
    rows = [np.concatenate(drawn[start : start + COLUMNS], axis=1) for start in starts]
    cv2.imwrite(str(path), stacked(rows), QUALITY)


def _titled(panel: Panel) -> np.ndarray:
    """A square with a picture in its middle and two lines of text above; BGR."""
    square = grey(np.zeros((TITLE + SIDE, SIDE + 8))) + 255
    picture = cv2.imread(str(panel.path))
    height, width = picture.shape[:2]
    y, x = TITLE + (SIDE - height) // 2, 4 + (SIDE - width) // 2
    square[y : y + height, x : x + width] = picture
    for text, line in ((panel.title, 17), (panel.below, 36)):
        cv2.putText(
            square, text, (5, line), cv2.FONT_HERSHEY_SIMPLEX, 0.46, (0, 0, 0), 1, cv2.LINE_AA
        )
    return square
