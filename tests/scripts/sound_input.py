"""A sound project, to be spoilt."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import yaml

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections

SHAPE = (5, 48, 64)
CONFIG = {
    "NAME": "tiny",
    "MODEL": {"width": 2},
    "TRAIN": {
        "total_iters": 2,
        "display_freq": 1,
        "valid_freq": 2,
        "num_workers": 0,
        "precision": "float32",
        "if_cuda": False,
    },
    "DATA": {
        "data_dir_img": "source",
        "data_dir_label": "labels",
        "data_dir_target": "target",
        "data_dir_val": "target",
        "input_size": 32,
    },
    "TEST": {"padded_size": [48, 64], "precision": "float32"},
}


class Input:
    """A sound project to be spoilt: data, config, arguments of ``main.py``."""

    def __init__(self, root: Path, command: Callable) -> None:
        self.root, self.command = root, command
        self.data, self.out = root / "data", root / "out"
        for seed, (name, microscope) in enumerate(
            {"source": SOURCE_MICROSCOPE, "target": TARGET_MICROSCOPE}.items()
        ):
            images, labels = make_volume(seed, SHAPE, microscope)
            write_sections(self.data / name, images)
            if name == "source":
                self.images, self.labels = images, labels
                write_sections(self.data / "labels", labels)
        self.out.mkdir()
        self.config = self.root / "tiny.yaml"
        self.write(CONFIG)

    def write(self, config: dict | str) -> None:
        """Replace the config."""
        text = config if isinstance(config, str) else yaml.safe_dump(config)
        self.config.write_text(text, encoding="utf-8")

    def set(self, key: str, value: object) -> None:
        """Change a key of the config."""
        section, name = key.split(".")
        self.write(CONFIG | {section: CONFIG.get(section, {}) | {name: value}})

    def section(self, volume: str, index: int = 2) -> Path:
        """A section's file."""
        return sorted((self.data / volume).iterdir())[index]

    def volume(self, key: str, name: str, array: np.ndarray, dataset: str = "main") -> Path:
        """An HDF5 volume in place of one of the config's."""
        path = self.data / name
        with h5py.File(path, "w") as file:
            file[dataset] = array
        self.set(f"DATA.{key}", name)
        return path

    def run(self, *more: object, script: str = "main"):
        return self.command(
            script, "-c", self.config, "--data", self.data, "--out", self.out, "--device", "cpu",
            *more,
        )  # fmt: skip
