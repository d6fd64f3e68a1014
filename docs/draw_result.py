"""Draws docs/result.jpg: the labels and the predictions of several models on the same sections.

    python docs/draw_result.py --data DATA --out OUT -c vnc2lucchi2_small \
        --models supervised published plus --titles "supervised only" "DA-ISC" "plus"

It reads the predictions OUT/inference/MODEL/preds.hdf, made by scripts/inference.py.
"""

import argparse
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dataloader.roles import open_images, open_labels
from dataloader.volume import Volume
from prediction.metrics import THRESHOLD, Counts
from prediction.pictures import contours, grey, side_by_side, stacked
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, ROOT, Workspace

SIDE = 380  # pixels of a panel
TITLE = 30  # pixels of a line of text


def main() -> None:
    """Read the arguments, draw the picture, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="root of the data tree")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder that holds inference/")
    parser.add_argument("-c", "--cfg", default="vnc2lucchi2_small")
    parser.add_argument("--models", nargs="+", required=True, help="folders in inference/")
    parser.add_argument("--titles", nargs="+", required=True, help="one for each model")
    parser.add_argument("--sections", nargs="+", type=int, default=[35, 120])
    parser.add_argument("--corner", nargs=2, type=int, default=[60, 260], help="y, x of the crop")
    parser.add_argument("--crop", type=int, default=640, help="its side, pixels")
    args = parser.parse_args()

    workspace = Workspace(args.data.resolve(), args.out.resolve())
    data = load_config(args.cfg, ["DATA.pixel_size_working=null"], CONFIG_DIR).config.DATA
    images = open_images(workspace, data, "val", keep=False)
    labels = open_labels(workspace, data, "val", keep=False)
    files = [h5py.File(workspace.inference(name) / "preds.hdf")["main"] for name in args.models]
    scores = [f1(file, labels) for file in files]
    titles = ["labels"] + [f"{t}: F1 {s:.1f}" for t, s in zip(args.titles, scores, strict=True)]
    rows = [side_by_side([title(text) for text in titles])]
    window = tuple(slice(start, start + args.crop) for start in args.corner)
    for index in args.sections:
        section, label = images.section(index)[window], labels.section(index)[window]
        masks = [file[index][window] >= THRESHOLD for file in files]
        rows.append(side_by_side([panel(section, mask) for mask in (label, *masks)]))
    picture = cv2.cvtColor(stacked(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(ROOT / "docs/result.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])


def f1(probability: h5py.Dataset, labels: Volume) -> float:
    """Mean F1 over sections, per cent."""
    found = (
        Counts.of(probability[index] >= THRESHOLD, labels.section(index)).f1
        for index in range(len(labels))
    )
    return 100 * float(np.mean(list(found)))


def panel(section: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A crop with the contours of a mask, resized to a panel."""
    drawn = contours(section, mask, thickness=3)
    tinted = np.where(mask[..., None].astype(bool), (0.75 * drawn + (0, 60, 0)), drawn)
    return cv2.resize(tinted.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def title(text: str) -> np.ndarray:
    """A line of text, as wide as a panel."""
    picture = grey(np.zeros((TITLE, SIDE))) + 255
    cv2.putText(picture, text, (6, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.58, (0, 0, 0), 1, cv2.LINE_AA)
    return picture


if __name__ == "__main__":
    main()
