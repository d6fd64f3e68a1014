"""Small projects: volumes, a config and an output folder to run commands in."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import yaml

from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume
from utils.paths import ROOT

SHAPE = (4, 48, 48)
CONFIG = {
    "NAME": "tiny",
    "MODEL": {"width": 2},
    "TRAIN": {
        "total_iters": 6,
        "learning_rate": 1e-2,
        "display_freq": 2,
        "show_freq": 6,
        "valid_freq": 3,
        "save_freq": 2,
        "num_workers": 0,
        "precision": "float32",
        "if_cuda": False,
    },
    "TEST": {"precision": "float32", "tile": 64, "tile_pad": 16},
    "DATA": {
        "data_dir_img": "source.hdf",
        "data_dir_label": "source_groundtruth.hdf",
        "data_dir_target": "target.hdf",
        "input_size": 32,
    },
}


class Finished(NamedTuple):
    """A command that came to its end."""

    code: int
    out: str
    err: str


class Project:
    """A data tree, a config and an output folder."""

    def __init__(self, command, root: Path) -> None:
        self.command, self.root, self.models = command, root, root / "models/tiny"
        self.logs = root / "logs/tiny"
        for seed, (name, microscope) in enumerate(
            {"source": SOURCE_MICROSCOPE, "target": TARGET_MICROSCOPE}.items()
        ):
            images, labels = make_volume(seed, SHAPE, microscope)
            self.write(f"{name}.hdf", images)
            self.write(f"{name}_groundtruth.hdf", labels)
        (root / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))

    def write(self, name: str, volume: np.ndarray) -> None:
        with h5py.File(self.root / name, "w") as file:
            file["main"] = volume

    def arguments(self, *more: object) -> list[str]:
        places = ("--data", self.root, "--out", self.root, "--device", "cpu")
        return list(map(str, ("-c", self.root / "tiny.yaml", *places, *more)))

    def __call__(self, *more: object):
        return self.command("main", *self.arguments(*more))

    def train(self, *more: object) -> str:
        finished = self(*more)
        assert finished.code == 0, finished.err
        return finished.out

    def fail(self, *more: object) -> str:
        """The one line of a command that ends with exit code 2."""
        finished = self(*more)
        assert finished.code == 2, finished.err
        assert finished.err.count("\n") == 1, finished.err
        assert finished.err.startswith("error: ")
        return finished.err

    @contextmanager
    def start(self, *more: object, before: str = "", **options):
        """The same in a process of its own, after some shell commands; killed at the end."""
        script = f'{before}\nexec "$0" "$@"'
        command = [sys.executable, str(ROOT / "scripts/main.py"), *self.arguments(*more)]
        shell = ["unshare", "-m"] if "mount" in before else []
        with subprocess.Popen(
            [*shell, "bash", "-c", script, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        ) as process:
            try:
                yield process
            finally:
                process.kill()


RESUME = ("--resume", "--set", "TRAIN.total_iters=6")
