"""Paths of the data root and of the folders that runs write; addresses in place of paths."""

import os
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
CONFIG_DIR = ROOT / "config"
# also with the format first, as neuroglancer writes it: precomputed://gs://bucket/path
ADDRESS = re.compile(r"(?:[a-z0-9-]+:/+)?(?:https?|s3|gs):/+(?=[^/])")


class Workspace(NamedTuple):
    """The data root, and the folder for ``logs/``, ``models/`` and ``inference/``."""

    data: Path = ROOT / "data"
    out: Path = ROOT

    def data_path(self, path: Path) -> Path:
        """A path of a config below the data root; a leading ``../data`` or ``data`` is removed."""
        whole = path.is_absolute() or address_of(path)
        return path if whole else self.data / below(path, "data")

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


def address_of(path: Path | str) -> str | None:
    """The address that stands in place of a path; None: it is a path.

    ``Path`` leaves one slash of the two in ``https://host``; both are there in the result.
    """
    text = str(path)
    found = ADDRESS.match(text)
    return found and re.sub(r":/+", "://", found[0]) + text[found.end() :]


def absolute(path: Path | str) -> Path:
    """A path from the root; an address stays as it is."""
    return Path(path) if address_of(path) else Path(path).resolve()


def shown(path: Path) -> str:
    """A path relative to the current folder, or an address, for messages."""
    return address_of(path) or os.path.relpath(path)
