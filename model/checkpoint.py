"""Checkpoints in the published format, written whole or not at all, checked when they are read."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.published import from_published, to_published
from model.segmentor import Segmentor
from utils.errors import UserError, warn

# What a run keeps: what one uses (TRAIN.choose_by; by default it is the average), the last weights,
# their average, and the best on validation labels.
MODEL, LAST, AVERAGE = "model.ckpt", "last.ckpt", "average.ckpt"
BEST = "best_on_target_labels.ckpt"
TRAINING_STATE, PREVIOUS_STATE = "training_state.ckpt", "training_state.previous.ckpt"

# How a checkpoint was chosen, as every score says it.
CHOSEN_LAST = "last"
CHOSEN_AVERAGE = "average of the weights over the last iterations"
CHOSEN_BY = {"last": CHOSEN_LAST, "average": CHOSEN_AVERAGE}  # TRAIN.choose_by
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


def save_whole(path: Path, content: dict, previous: str | None = None) -> None:
    """Write a file beside its place and move it there, so that it is never seen half written.

    Args:
        path: of the file.
        content: for ``torch.save``, which adds a CRC-32 of each tensor.
        previous: name under which the file before it is kept; None: it is replaced.

    Raises:
        UserError: it cannot be written; what was there before is as it was.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # on the disc before it takes the old one's place
        if previous and path.exists():
            path.replace(path.with_name(previous))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):  # torch raises its own at a full disc
            raise
        raise UserError(
            f"{path}: cannot be written ({cause.strerror}); the checkpoint before it is whole"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint, ours or a published one, with or without DataParallel's ``module.``.

    Raises:
        UserError: no such file, no checkpoint, damaged, or the weights of another network.
    """
    content = load_file(path)
    weights = content.get("model_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for key, value in weights.items()
    ):
        raise UserError(f"{path}: no checkpoint; expected a dict with model_weights, current_iter")
    with torch.device("meta"):
        our_keys = list(Segmentor().state_dict())
    weights = from_published(weights, our_keys)
    if set(weights) != set(our_keys):
        odd = sorted(set(weights) ^ set(our_keys))
        raise UserError(
            f"{path}: weights of another network; {len(odd)} names differ, such as {odd[0]}"
        )
    check_finite(path, weights)
    score = content.get("valid_result")
    size = content.get("pixel_size")
    thickness = content.get("section_thickness")  # of files of revision 88888e3 and before
    if isinstance(thickness, float) and thickness > 0:
        warn(
            f"{path}: trained on means over {thickness:g} nm of sections, which are gone since the "
            "revision after 88888e3; sections are predicted as they are"
        )
    try:
        return Checkpoint(
            weights,
            int(content.get("current_iter", 0)),
            None if score is None else float(np.asarray(score).ravel()[0]),
            str(content.get("chosen_by", CHOSEN_UNKNOWN)),
            None if size is None else float(size),
        )
    except (TypeError, ValueError, IndexError):
        raise UserError(
            f"{path}: no checkpoint; current_iter, valid_result or pixel_size is no number"
        ) from None


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Demand that all numbers of a file are finite; raises UserError."""
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: weights that are not finite, such as {broken[0]}; the run failed")


def load_file(path: Path) -> dict:
    """Read what ``torch.save`` wrote, as data: nothing in the file is executed.

    Raises:
        UserError: no such file, not readable, or what is in it is not what was written.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, or place a published one there")
    try:
        # torch does not compare the checksums it has written; older files have none to compare
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"damaged, the checksum of {damaged} differs")
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a broken file
        reason = " ".join(str(error).split("\n")[0].split())[:120]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None


def load_state(folder: Path) -> tuple[dict, Path, str | None]:
    """The newest training state in a folder that is whole.

    Returns:
        The content, its path, and a warning where it is not the newest that was written.

    Raises:
        UserError: none is whole; of the newest.
    """
    newest, previous = folder / TRAINING_STATE, folder / PREVIOUS_STATE
    try:
        return load_file(newest), newest, None
    except UserError as error:
        if not previous.is_file():
            raise
        try:
            content = load_file(previous)
        except UserError:
            raise error from None
        return content, previous, f"{error}; going on from {previous.name}"


def segmentor_from(checkpoint: Checkpoint, path: Path) -> Segmentor:
    """The network a checkpoint holds, of whatever width, ready to predict."""
    width = max(1, checkpoint.weights["section_full.conv1.bias"].numel())
    with torch.device("meta"):  # takes no memory, whatever the file says
        expected = Segmentor(width).state_dict()
    for name, value in checkpoint.weights.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"{path}: weights of other shapes ({name}: found {tuple(value.shape)}, expected "
                f"{tuple(expected[name].shape)})"
            )
    segmentor = Segmentor(width)
    segmentor.load_state_dict(checkpoint.weights)
    return segmentor.eval()
