"""Checkpoints in the published format. They are written atomically and checked when read."""

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

# Files of a run: the weights to use (TRAIN.choose_by; by default the average), the last weights,
# the average of the weights, and the best weights on validation labels.
MODEL, LAST, AVERAGE = "model.ckpt", "last.ckpt", "average.ckpt"
BEST = "best_on_target_labels.ckpt"
TRAINING_STATE, PREVIOUS_STATE = "training_state.ckpt", "training_state.previous.ckpt"

# How a checkpoint was chosen; printed with every score.
CHOSEN_LAST = "last"
CHOSEN_AVERAGE = "average of the weights over the last iterations"
CHOSEN_BY = {"last": CHOSEN_LAST, "average": CHOSEN_AVERAGE}  # TRAIN.choose_by
CHOSEN_BEST = "best-on-target-labels (an upper bound, not a result)"
CHOSEN_UNKNOWN = "unknown (a published file: the authors chose on validation labels)"

# Validation scores in published files may be NumPy numbers; no other objects are unpickled.
_NUMPY_NUMBERS = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    (np._core.multiarray.scalar, "numpy._core.multiarray.scalar"),
]


class Checkpoint(NamedTuple):
    """Content of a checkpoint file.

    Attributes:
        weights: state dict of the segmentor.
        iteration: iterations done when it was written.
        valid_result: validation score at that iteration, or None.
        chosen_by: the rule that selected the checkpoint.
        pixel_size: pixel size of the training sections in nm; None if they were not resampled.
    """

    weights: dict[str, Tensor]
    iteration: int
    valid_result: float | None = None
    chosen_by: str = CHOSEN_LAST
    pixel_size: float | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in the published format, with ``chosen_by`` and ``pixel_size`` added."""
    content = {
        "model_weights": to_published(checkpoint.weights),
        "current_iter": checkpoint.iteration,
        "valid_result": checkpoint.valid_result,
        "chosen_by": checkpoint.chosen_by,
        "pixel_size": checkpoint.pixel_size,
    }
    save_whole(path, content)


def save_whole(path: Path, content: dict, previous: str | None = None) -> None:
    """Write a file atomically: under a temporary name, then renamed.

    Args:
        path: of the file.
        content: for ``torch.save``, which adds a CRC-32 of each tensor.
        previous: new name for an existing file at the path; None: it is replaced.

    Raises:
        UserError: the file cannot be written; an existing file is unchanged.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # on disc before it replaces the old file
        if previous and path.exists():
            path.replace(path.with_name(previous))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):  # torch raises RuntimeError if the disc is full
            raise
        raise UserError(
            f"{path}: cannot be written ({cause.strerror}); the previous checkpoint is intact"
        ) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of this project or a published one, also with DataParallel's ``module.``.

    Raises:
        UserError: the file is missing, damaged or not a checkpoint, or its weights are those of
            another network or not finite.
    """
    content = load_file(path)
    weights = content.get("model_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) and value.layout == torch.strided
        for key, value in weights.items()
    ):
        raise UserError(f"{path}: not a checkpoint; expected a dict with model_weights")
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
    thickness = content.get("section_thickness")  # in files up to revision 88888e3
    if isinstance(thickness, float) and thickness > 0:
        warn(
            f"{path}: trained on sections averaged over {thickness:g} nm, which is not supported "
            "after revision 88888e3; sections are predicted without averaging"
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
            f"{path}: not a checkpoint; current_iter, valid_result or pixel_size is not a number"
        ) from None


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise UserError if a tensor in a file has values that are not finite."""
    broken = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if broken:
        raise UserError(f"{path}: weights are not finite, such as {broken[0]}; the run failed")


def load_file(path: Path) -> dict:
    """Read a file of ``torch.save`` as data; no code in it is executed.

    Raises:
        UserError: the file is missing or unreadable, or a checksum differs.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train first, or put a published one there")
    try:
        # torch writes checksums but does not verify them; older files have none
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged:
                raise ValueError(f"damaged: the checksum of {damaged} differs")
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a broken file
        reason = " ".join(str(error).split("\n")[0].split())[:120]
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None


def load_state(folder: Path) -> tuple[dict, Path, str | None]:
    """The newest intact training state in a folder.

    Returns:
        The content, its path, and a warning if a newer state is damaged.

    Raises:
        UserError: no state is intact. The message is about the newest.
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
        return content, previous, f"{error}; continuing from {previous.name}"


def segmentor_from(checkpoint: Checkpoint, path: Path) -> Segmentor:
    """The network of a checkpoint, of any width, in evaluation mode."""
    width = max(1, checkpoint.weights["section_full.conv1.bias"].numel())
    with torch.device("meta"):  # takes no memory, whatever the width in the file
        expected = Segmentor(width).state_dict()
    for name, value in checkpoint.weights.items():
        if value.shape != expected[name].shape:
            raise UserError(
                f"{path}: weights of another network ({name}: found shape {tuple(value.shape)}, "
                f"expected {tuple(expected[name].shape)})"
            )
    segmentor = Segmentor(width)
    segmentor.load_state_dict(checkpoint.weights)
    return segmentor.eval()
