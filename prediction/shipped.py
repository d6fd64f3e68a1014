"""The models in ``models/`` that come with the project."""

import re
from typing import NamedTuple

from dataloader.formats.voxel_size import VoxelSize, unlikeness
from model.checkpoint import MODEL
from utils.config.load import load_config
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT

MODELS = ROOT / "models"
CARD = "README.md"


class ShippedModel(NamedTuple):
    """A model that comes with the project.

    Attributes:
        name: of its folder and of its config.
        config: it was trained with.
        voxel_size: of the volume that it was adapted to, or that it is scored on.
        f1: in percent, that its card gives for ``DATA.data_dir_val``; None: not scored.
    """

    name: str
    config: Config
    voxel_size: VoxelSize
    f1: float | None

    @property
    def general(self) -> bool:
        """Whether it has learned from labelled volumes alone and was adapted to none."""
        return not (self.config.TRAIN.adapts or self.config.BEYOND.rounds)


def shipped_models() -> list[ShippedModel]:
    """The models with a checkpoint, a card and a config of the same name."""
    folders = sorted(path.parent for path in MODELS.glob(f"*/{MODEL}"))
    names = [
        folder.name
        for folder in folders
        if (folder / CARD).is_file() and (CONFIG_DIR / f"{folder.name}.yaml").is_file()
    ]
    return [_shipped(name) for name in names]


def quick_model(size: VoxelSize) -> ShippedModel:
    """A general model; if there is none, the one for the most similar voxel size.

    On the one volume that was tried and that none has seen, the model of several sources was the
    best (models/generalist_small/README.md). Of equals, one whose card has scores.

    Raises:
        UserError: there is none.
    """
    models = shipped_models()
    if not models:
        raise UserError(f"{MODELS}: no shipped model; restore the folder from the repository")

    def order(model: ShippedModel) -> tuple[bool, float, bool]:
        unlike = round(unlikeness(model.voxel_size, size), 6)
        return not model.general, unlike, model.f1 is None

    return min(models, key=order)


def _shipped(name: str) -> ShippedModel:
    config = load_config(name, [], CONFIG_DIR).config
    card = (MODELS / name / CARD).read_text(encoding="utf-8")
    scored = re.search(r"\*\*Scores\.\*\*[^:]*per section:[^()]*?F1 (\d+\.\d)", card)
    pixel = config.DATA.pixel_size_target
    size = VoxelSize(config.DATA.section_spacing_target, pixel, pixel)
    return ShippedModel(name, config, size, float(scored[1]) if scored else None)
