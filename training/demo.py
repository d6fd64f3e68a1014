"""The demo: adaptation between two synthetic microscopes, compared with source-only training.

Makes a labelled source volume, an unlabelled target volume and a held-out volume of the target's
microscope. Trains one model on the source alone and one adapted to the target, predicts and scores
the held-out volume with both, and draws the results side by side.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from prediction.inference import Inference, Request, open_inference
from prediction.metrics import Scores
from prediction.pictures import contours, grey, side_by_side, stacked
from prediction.predict import predict
from prediction.scoring import measure
from training.recorded import train_recorded
from training.trainer import Trainer
from utils.config.load import load_config
from utils.files import write_picture
from utils.paths import CONFIG_DIR, Workspace, shown
from utils.runtime.device import choose_device

SHAPE = (16, 256, 256)  # sections, height, width of each volume
# Plain supervised training on the source.
SOURCE_ONLY = [
    "TRAIN.weight_cross=0",
    "TRAIN.weight_adv_spatial=0",
    "TRAIN.weight_adv_temporal=0",
    "BEYOND.domain_randomisation=false",
    "BEYOND.head_prior=0",
]
RUNS = {"source-only": ("demo-source-only", SOURCE_ONLY), "adapted": ("demo-adapted", [])}


def run_demo(workspace: Workspace, seed: int, settings: Sequence[str]) -> None:
    """Make the volumes, train and score both models, print and draw the comparison.

    Args:
        workspace: data root and output folder.
        seed: of the volumes and of both runs.
        settings: overrides of the config ``demo``, as ``SECTION.key=value``.
    """
    device = choose_device("auto")
    make_volumes(workspace.data / "demo", seed)
    print(f"volumes: {shown(workspace.data / 'demo')}, {SHAPE[0]} sections of 256 x 256 each")
    models, scores = {}, {}
    for name, (run, weights) in RUNS.items():
        overrides = [f"TRAIN.random_seed={seed}", *settings, *weights]
        config = load_config("demo", overrides, CONFIG_DIR).config
        print(f"\n{name}: {config.TRAIN.total_iters} iterations")
        train_recorded(Trainer(config, workspace, run, device), overwrite=True)
        models[name] = open_inference(config, workspace, Request(run), device)
        derived = predict(models[name])
        scores[name] = measure(models[name], "map", derived).scores

    print(f"\nheld-out target volume, {SHAPE[0]} sections, model.ckpt of each:")
    for name, score in scores.items():
        print(f"  {name:<12} {score}")
    picture = workspace.inference("demo.png")
    write_picture(picture, compare(models, scores))
    print(f"picture: {shown(picture)}")
    print("demo: " + " ".join(f"{name} F1={score.F1:.3f}" for name, score in scores.items()))


def make_volumes(folder: Path, seed: int) -> None:
    """Write the three volumes, each of different tissue."""
    volumes = [
        ("source", SOURCE_MICROSCOPE),
        ("target", TARGET_MICROSCOPE),
        ("holdout", TARGET_MICROSCOPE),
    ]
    for number, (name, microscope) in enumerate(volumes):
        images, labels = make_volume(3 * seed + number, SHAPE, microscope)
        write_sections(folder / name, images)
        if name != "target":  # the target has no labels
            write_sections(folder / f"{name}_groundtruth", labels)


def compare(models: dict[str, Inference], scores: dict[str, Scores]) -> np.ndarray:
    """Draw three held-out sections: plain, and with the contours of labels (red) and each model."""
    first = next(iter(models.values()))
    titles = ["target section"]
    titles += [f"{name}, F1={scores[name].F1:.3f} (label red)" for name in models]
    rows = [side_by_side([title(text, 2 * SHAPE[2]) for text in titles])]
    for index in (2, SHAPE[0] // 2, SHAPE[0] - 3):
        section = enlarge(first.raw.section(index))
        label = enlarge(first.labels.section(index))
        panels = [grey(section)]
        for model in models.values():
            mask = enlarge((model.probability(index) >= model.threshold).astype(np.uint8))
            panels.append(contours(section, mask, label))
        rows.append(side_by_side(panels))
    return stacked(rows)


def enlarge(image: np.ndarray) -> np.ndarray:
    """Double the size, so that contours are thin."""
    return cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)


def title(text: str, width: int) -> np.ndarray:
    """A line of black text on white, (32, width, 3) uint8."""
    strip = np.full((32, width, 3), 255, np.uint8)
    return cv2.putText(
        strip, text, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.65, (0, 0, 0), 1, cv2.LINE_AA
    )
