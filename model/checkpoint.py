"""Checkpoints in the published format, written whole or not at all."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.published import from_published, to_published
from model.segmentor import Segmentor
from utils.errors import UserError

LAST, BEST = "model.ckpt", "best_on_target_labels.ckpt"
TRAINING_STATE = "training_state.ckpt"

# How a checkpoint was chosen, as every score says it.
CHOSEN_LAST = "last"
CHOSEN_BEST = "best-on-target-labels (an upper bound, not a result)"
CHOSEN_UNKNOWN = "unknown (a published file: the authors chose on validation labels)"

# Validation scores in published files may be numpy numbers; nothing else is unpickled.
_NUMPY_NUMBERS = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


class Checkpoint(NamedTuple):
    """What a checkpoint file holds.

    Attributes:
        weights: the segmentor's tensors under our names.
        iteration: after which it was written.
        valid_result: the validation's score then, or None.
        chosen_by: the rule by which it was kept.
        pixel_size: nm, of the sections it was trained on; None: they were not resampled.
    """

    weights: dict[str, Tensor]
    iteration: int
    valid_result: float | None = None
    chosen_by: str = CHOSEN_LAST
    pixel_size: float | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``model_weights``, ``current_iter``, ``valid_result``, and how it was chosen."""
    content = {
        "model_weights": to_published(checkpoint.weights),
        "current_iter": checkpoint.iteration,
        "valid_result": checkpoint.valid_result,
        "chosen_by": checkpoint.chosen_by,
        "pixel_size": checkpoint.pixel_size,
    }
    save_whole(path, content)


def save_whole(path: Path, content: dict) -> None:
    """Write a file beside its place and move it there, so that it is never seen half written."""
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())  # on the disc before it takes the old one's place
    part.replace(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, ours or a published one, with or without DataParallel's ``module.``.

    Raises:
        UserError: no such file, no checkpoint, or the weights of another network.
    """
    content = load_file(path)
    if not isinstance(content, dict) or not isinstance(content.get("model_weights"), dict):
        raise UserError(f"{path}: no checkpoint; expected a dict with model_weights, current_iter")
    with torch.device("meta"):
        our_keys = list(Segmentor().state_dict())
    weights = from_published(content["model_weights"], our_keys)
    if set(weights) != set(our_keys):
        odd = sorted(set(weights) ^ set(our_keys))
        raise UserError(
            f"{path}: weights of another network; {len(odd)} names differ, such as {odd[0]}"
        )
    broken = [name for name, value in weights.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: weights that are not finite, such as {broken[0]}; the run failed")
    score = content.get("valid_result")
    return Checkpoint(
        weights,
        int(content.get("current_iter", 0)),
        None if score is None else float(np.asarray(score).ravel()[0]),
        content.get("chosen_by", CHOSEN_UNKNOWN),
        content.get("pixel_size"),
    )


def load_file(path: Path) -> dict:
    """Read what ``torch.save`` wrote, as data: nothing in the file is executed."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, or place a published one there")
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None


def segmentor_from(checkpoint: Checkpoint, path: Path) -> Segmentor:
    """The network a checkpoint holds, of whatever width, ready to predict."""
    segmentor = Segmentor(width=checkpoint.weights["section_full.conv1.bias"].numel())
    try:
        segmentor.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise UserError(
            f"{path}: weights of other shapes ({str(error).splitlines()[1].strip()})"
        ) from None
    return segmentor.eval()
