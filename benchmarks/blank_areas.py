"""What blank areas cost: a shipped model on a part of Lucchi with black, white or grey areas.

``python -m benchmarks.blank_areas --data DIR`` predicts 20 sections of 512 x 512 pixels of Lucchi's
training stack as ``scripts/inference.py`` does, and again with an area blanked in each section. For
each area it prints F1 of the remaining tissue (``as it was``: of the prediction without the blank
area, on the same pixels; ``not filled``: the blank area is not filled before the prediction) and
the fraction of the area that is predicted as mitochondria.
"""

import argparse
import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import cv2
import h5py
import numpy as np
import torch

from dataloader.formats import opening
from prediction.inference import Request, open_inference
from prediction.metrics import THRESHOLD, Counts
from prediction.predict import predict
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, ROOT, Workspace

MODEL = "vnc2lucchi2_small_plus"
SECTIONS, SIDE = 20, 512
RAISED = 60  # least grey level of a section with a raised black level
NOISE = 3  # grey levels


class Case(NamedTuple):
    """A blank area.

    Attributes:
        area, level: names of the area and of its grey level.
        mask: (H, W) bool.
        grey: grey level of the area.
        raised: raise the black level of the tissue.
        noisy: add noise of 3 grey levels.
    """

    area: str
    level: str
    mask: np.ndarray
    grey: int
    raised: bool = False
    noisy: bool = False

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Blank the area in sections."""
        images = raised(images) if self.raised else images
        grain = np.random.default_rng(0).integers(-NOISE, NOISE + 1, images.shape) * self.noisy
        return np.where(self.mask, np.clip(self.grey + grain, 0, 255), images).astype(np.uint8)


def main() -> None:
    """Predict all cases and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / "data",
        metavar="DIR",
        help="data tree with Lucchi/training",
    )
    parser.add_argument("--first", type=int, default=90, metavar="N", help="first section")
    parser.add_argument(
        "--corner", type=int, nargs=2, default=(0, 400), metavar=("Y", "X"), help="of the crop"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    images, labels = read(args.data, args.first, *args.corner)
    whole = {False: predicted(images), True: predicted(raised(images))}
    print("| area | level | F1 as it was | F1 not filled | F1 | found in it, not filled | found |")
    print("|---|---|---|---|---|---|---|")
    for case in cases():
        plain, filled = predicted(case(images), fill=False), predicted(case(images))
        scores = (f1(part, labels, case.mask) for part in (whole[case.raised], plain, filled))
        found = (f"{part[:, case.mask].mean():.1%}" for part in (plain, filled))
        level = f"{case.level}{', noise' * case.noisy}"
        row = [case.area, level, *(f"{score:.3f}" for score in scores), *found]
        print(f"| {' | '.join(row)} |", flush=True)


def cases() -> Iterator[Case]:
    """Each area at each grey level; two areas also with noise."""
    levels = {"black": 0, "white": 255, "grey": 128}
    for area, mask in areas().items():
        for level, grey in levels.items():
            yield Case(area, level, mask, grey)
        yield Case(area, "black, tissue raised", mask, 0, raised=True)
        yield Case(area, "grey, tissue raised", mask, 128, raised=True)
    for area in ("100 columns", "frame, turned by 7 degrees"):
        for level in ("black", "grey"):
            yield Case(area, level, areas()[area], levels[level], noisy=True)


def areas() -> dict[str, np.ndarray]:
    """Masks (H, W) of the areas, by name."""
    y, x = np.mgrid[:SIDE, :SIDE]
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), 7, 0.9)
    inside = cv2.warpAffine(np.ones((SIDE, SIDE), np.uint8), turn, (SIDE, SIDE))
    return {
        "8 columns": x < 8,
        "40 columns": x < 40,
        "100 columns": x < 100,
        "a corner, 3 %": x + y < (2 * 0.03) ** 0.5 * SIDE,
        "four corners": np.minimum(x, SIDE - 1 - x) + np.minimum(y, SIDE - 1 - y) < 90,
        "frame, turned by 7 degrees": inside == 0,
    }


def raised(images: np.ndarray) -> np.ndarray:
    """Raise the black level of sections to a dark grey."""
    return np.rint(RAISED + images * ((255 - RAISED) / 255)).astype(np.uint8)


def read(data: Path, first: int, y: int, x: int) -> tuple[np.ndarray, np.ndarray]:
    """Read sections, and masks of 0 and 1."""
    stacks = [
        np.stack([
            cv2.imread(str(data / "Lucchi" / folder / f"{k:03d}.png"), cv2.IMREAD_GRAYSCALE)
            for k in range(first, first + SECTIONS)
        ])[:, y : y + SIDE, x : x + SIDE]
        for folder in ("training", "training_groundtruth")
    ]  # fmt: skip
    return stacks[0], (stacks[1] > 127).astype(np.uint8)


def predicted(images: np.ndarray, fill: bool = True) -> np.ndarray:
    """Predict masks of mitochondria, bool, as ``scripts/inference.py`` does."""
    settings = [
        "DATA.data_dir_val=images.h5",
        "DATA.data_dir_val_label=null",
        "TEST.windows=section",
        "TEST.padded_size=[304, 304]",
        f"TRAIN.save_path={ROOT / 'models'}",
    ]
    config = load_config(MODEL, settings, CONFIG_DIR).config
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        with h5py.File(Path(folder) / "images.h5", "w") as file:
            file["main"] = images
        as_it_is = mock.patch.object(opening, "FilledVolume", lambda volume: volume)
        with contextlib.nullcontext() if fill else as_it_is:
            workspace, device = Workspace(Path(folder), Path(folder)), torch.device("cpu")
            inference = open_inference(config, workspace, Request(MODEL), device)
        predict(inference)
        sections = [inference.probability(index) for index in range(SECTIONS)]
    return np.stack(sections) >= THRESHOLD


def f1(found: np.ndarray, labels: np.ndarray, blank: np.ndarray) -> float:
    """F1 of all sections outside of a blank area."""
    return Counts.of(found[:, ~blank], labels[:, ~blank]).f1


if __name__ == "__main__":
    main()
