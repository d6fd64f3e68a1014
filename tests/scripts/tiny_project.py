"""A small project with a validation volume, and what its commands write."""

import copy
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
import yaml
from sklearn import metrics as sk

from model.checkpoint import LAST, load_checkpoint

SECTIONS, SIDE, ITERATIONS = 5, 64, 6
SHAPE = (SECTIONS, SIDE, SIDE)
NUMBER = r"\d+\.\d{6}"
LOSS_LINE = (
    rf"step=\d+, loss={NUMBER}, loss_cpred={NUMBER}, loss_apred={NUMBER}, loss_diff={NUMBER}"
)
ADAPTATION_LINE = (
    rf"step=\d+, loss={NUMBER}, loss_cross={NUMBER}, "
    rf"loss_adv_spatial={NUMBER}, loss_adv_temporal={NUMBER}"
)
SCORES_LINE = r"mAP=\d\.\d{4}, F1=\d\.\d{4}, MCC=-?\d\.\d{4}, IoU=\d\.\d{4}"
CONFIG = {
    "NAME": "tiny",
    "MODEL": {"width": 2},
    "TRAIN": {
        "total_iters": ITERATIONS,
        "rampup_iters": 3,
        "learning_rate": 1e-2,
        "display_freq": 2,
        "show_freq": 3,
        "valid_freq": 3,
        "save_freq": 3,
        "num_workers": 0,
        "precision": "float32",
        "if_cuda": False,
        "random_seed": 2,  # its validation scores fall, so that the best is not the last
    },
    "DATA": {
        "data_dir_img": "../data/png/source",
        "data_dir_label": "../data/png/source_groundtruth",
        "data_dir_target": "../data/png/target",
        "target_stride": 2,
        "input_size": 32,
        "data_dir_val": "../data/png/val",
        "data_dir_val_label": "../data/png/val_groundtruth",
    },
    "TEST": {
        "padded_size": 80,
        "tile": 32,
        "tile_step": 16,
        "tile_pad": 16,
        "precision": "float32",
    },
}
SOURCE_ONLY = [
    part
    for key in ("weight_cross", "weight_adv_spatial", "weight_adv_temporal")
    for part in ("--set", f"TRAIN.{key}=0")
]


def write_config(path: Path, **changes: dict) -> Path:
    """The tiny config with keys of its sections changed."""
    values = copy.deepcopy(CONFIG)
    for section, keys in changes.items():
        values[section] |= keys
    path.write_text(yaml.safe_dump(values))
    return path


class Project:
    """A config, a data root and an output folder to run commands with."""

    def __init__(self, command: Callable, data: Path, out: Path) -> None:
        self.command, self.data, self.out = command, data, out
        self.config = write_config(out / "tiny.yaml")

    def __call__(self, script: str, *arguments: object):
        places = ("-c", self.config, "--data", self.data, "--out", self.out, "--device", "cpu")
        return self.command(script, *places, *arguments)

    def run(self, script: str, *arguments: object) -> str:
        """Run a command that must succeed; its output."""
        finished = self(script, *arguments)
        assert finished.code == 0, finished.err
        assert finished.err == ""
        return finished.out

    def lines(self, file: str, run: str = "tiny") -> list[str]:
        return (self.out / "logs" / run / file).read_text().splitlines()

    def predictions(self, run: str = "tiny") -> np.ndarray:
        with h5py.File(self.out / "inference" / run / "preds.hdf") as file:
            return file["main"][:]

    def weights(self, run: str = "tiny", file: str = LAST) -> dict[str, torch.Tensor]:
        return load_checkpoint(self.out / "models" / run / file).weights


def labels(data: Path) -> np.ndarray:
    with h5py.File(data / "hdf/val_groundtruth.hdf") as file:
        return file["main"][:] // 255


def sklearn_scores(probability: np.ndarray, label: np.ndarray) -> list[float]:
    truth, values = label.ravel(), probability.ravel()
    mask = values >= 0.5
    return [
        sk.average_precision_score(truth, values),
        sk.f1_score(truth, mask, zero_division=0),
        sk.matthews_corrcoef(truth, mask),
        sk.jaccard_score(truth, mask, zero_division=0),
    ]


def numbers(line: str) -> list[float]:
    return [float(value) for value in re.findall(r"=(-?[\d.]+)", line)]
