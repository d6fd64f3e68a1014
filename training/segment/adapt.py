"""The stage of ``segment.py`` that trains the network."""

import torch

from dataloader.roles import open_images, open_labels
from model.checkpoint import MODEL, PREVIOUS_STATE, TRAINING_STATE
from training.recorded import train_recorded
from training.setup import fingerprints, settle
from training.state import Earlier, earlier_run
from training.trainer import Trainer
from utils.config.schema import Config
from utils.errors import UserError
from utils.faults import RESUME
from utils.paths import Workspace
from utils.runtime.distributed import Group
from utils.runtime.signals import Interrupted

CONTINUES = "the same command goes on"


def find_earlier(workspace: Workspace, config: Config, run: str) -> Earlier | None:
    """The run of that name, compared with what it would be trained with now.

    None if there is none, or if it is finished but its model is missing.

    Raises:
        UserError: its state is damaged, or a volume is missing.
    """
    folder = workspace.models(config.TRAIN.save_path, run)
    if not any((folder / name).is_file() for name in (TRAINING_STATE, PREVIOUS_STATE)):
        return None
    settled = settle(_resuming(config, True), workspace, run, Group())
    sources = [
        (open_images(workspace, data, "source", keep=False),
         open_labels(workspace, data, "source", keep=False))
        for data in config.DATA.each_source
    ]  # fmt: skip
    target = open_images(workspace, config.DATA, "target", keep=False)
    earlier = earlier_run(folder, settled, fingerprints(sources, target))
    lost = earlier.finished and not (folder / MODEL).is_file()
    return None if lost else earlier


def train(
    config: Config, workspace: Workspace, run: str, device: torch.device, resume: bool
) -> None:
    """Train a network, or go on with it; without ``resume`` an earlier run is deleted.

    Raises:
        UserError: a volume is invalid, or the machine fails.
        Interrupted: by SIGINT or SIGTERM, after the state has been saved.
    """
    trainer = Trainer(_resuming(config, resume), workspace, run, device)
    try:
        train_recorded(trainer, overwrite=not resume, quiet=True)
    except UserError as error:
        raise UserError(str(error).replace(RESUME, CONTINUES)) from None
    except Interrupted as error:
        where = str(error).partition(";")[0]
        raise Interrupted(f"{where}; {CONTINUES}", error.code - 128) from None


def _resuming(config: Config, resume: bool) -> Config:
    return config.model_copy(update={"TRAIN": config.TRAIN.model_copy(update={"resume": resume})})
