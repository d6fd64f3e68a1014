"""Where things lie: the data root, and the folders that runs write."""

import os
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "config"


class Workspace(NamedTuple):
    """The root of the data tree, and the folder in which runs leave logs, models and inference."""

    data: Path = ROOT / "data"
    out: Path = ROOT

    def data_path(self, path: Path) -> Path:
        """A config's path under the data root; a leading ``../data`` or ``data`` is that root."""
        return path if path.is_absolute() else self.data / below(path, "data")

    def models(self, save_path: Path, run: str) -> Path:
        """Where a run's checkpoints lie."""
        root = save_path if save_path.is_absolute() else self.out / below(save_path)
        return root / run

    def logs(self, run: str) -> Path:
        """Where a run's logs lie."""
        return self.out / "logs" / run

    def inference(self, name: str) -> Path:
        """Where a model's predictions and scores lie."""
        return self.out / "inference" / name


def below(path: Path, folder: str | None = None) -> Path:
    """A path as the published files have it, from ``scripts/``, without its leading ``..``."""
    parts = [part for n, part in enumerate(path.parts) if part != ".." or n]
    if folder and parts[:1] == [folder]:
        parts = parts[1:]
    return Path(*parts)


def shown(path: Path) -> str:
    """A path as seen from the current folder, for messages."""
    return os.path.relpath(path)
