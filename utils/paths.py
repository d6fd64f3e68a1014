"""Paths of the data root and of the folders that runs write."""

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "config"


class Workspace(NamedTuple):
    """The data root, and the folder for ``logs/``, ``models/`` and ``inference/``."""

    data: Path = ROOT / "data"
    out: Path = ROOT

    def data_path(self, path: Path) -> Path:
        """A path of a config below the data root; a leading ``../data`` or ``data`` is removed."""
        return path if path.is_absolute() else self.data / below(path, "data")

    def models(self, save_path: Path, run: str) -> Path:
        """Folder of a run's checkpoints."""
        root = save_path if save_path.is_absolute() else self.out / below(save_path)
        return root / run

    def file(self, path: Path) -> Path:
        """A file that a config names: from the current folder, ``--out`` or the project."""
        places = (path, self.out / path, ROOT / path)
        return next((place for place in places if place.is_file()), path)

    def logs(self, run: str) -> Path:
        """Folder of a run's logs."""
        return self.out / "logs" / run

    def inference(self, name: str) -> Path:
        """Folder of a model's predictions and scores."""
        return self.out / "inference" / name


def below(path: Path, folder: str | None = None) -> Path:
    """A path relative to ``scripts/``, as in published configs, without its leading ``..``."""
    parts = [part for n, part in enumerate(path.parts) if part != ".." or n]
    if folder and parts[:1] == [folder]:
        parts = parts[1:]
    return Path(*parts)


def shown(path: Path) -> str:
    """A path relative to the current folder, for messages."""
    return os.path.relpath(path)
