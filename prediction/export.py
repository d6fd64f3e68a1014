"""Exports of a checkpoint: ONNX with a package for bioimage.io, or weights in half precision."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from model.checkpoint import MODEL, load_checkpoint, save_checkpoint, segmentor_from
from prediction.bioimageio import PACKAGE, write_package
from prediction.onnx import ONNX, PURPOSE, PairProbabilities, largest_difference, write_onnx
from utils.errors import UserError, writing_to
from utils.optional import wanted
from utils.paths import shown

TOLERANCE = 1e-4  # of probabilities, ONNX against PyTorch


def export(
    checkpoint_file: Path, folder: Path, name: str, say: Callable[[str], None] = print
) -> None:
    """Write ``model.onnx`` and ``bioimageio.zip`` for a checkpoint.

    Args:
        checkpoint_file: of this project or of the published code.
        folder: for the two files.
        name: of the model.
        say: prints a line for the user.

    Raises:
        UserError: the checkpoint is missing or damaged, a package is missing, or the output of the
            exported network differs from PyTorch's.
    """
    for package in ("onnx", "onnxscript", "onnxruntime", "bioimageio.core"):
        wanted(package, PURPOSE)
    checkpoint = load_checkpoint(checkpoint_file)
    network = PairProbabilities(segmentor_from(checkpoint, checkpoint_file)).eval()
    with writing_to(folder), tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write_onnx(network, work / ONNX)
        difference = largest_difference(network, work / ONNX)
        say(f"ONNX against PyTorch: largest difference {difference:.1e} (limit {TOLERANCE:.0e})")
        if not difference <= TOLERANCE:
            raise UserError(
                f"{checkpoint_file}: the ONNX network differs from PyTorch by {difference:.1e}, "
                f"expected at most {TOLERANCE:.0e}; nothing was written"
            )
        write_package(network, checkpoint, name, work)
        folder.mkdir(parents=True, exist_ok=True)
        for file in (ONNX, PACKAGE):
            part = folder / f"{file}.part"
            shutil.copyfile(work / file, part)
            part.replace(folder / file)
            say(f"wrote {shown(folder / file)}")


def export_half(checkpoint_file: Path, folder: Path, say: Callable[[str], None] = print) -> None:
    """Write a checkpoint with weights in float16 to ``folder/model.ckpt``, for ``inference.py``.

    Rounding changes a weight by at most 0.05 %. Networks still compute in float32.

    Raises:
        UserError: the checkpoint is missing or damaged, or a weight is too large for float16.
    """
    checkpoint = load_checkpoint(checkpoint_file)
    weights = {name: value.half() for name, value in checkpoint.weights.items()}
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{checkpoint_file}: {name}: found weights above 65504, the most that half "
                "precision holds; use the checkpoint as it is"
            )
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(folder / MODEL, checkpoint._replace(weights=weights))
    size = (folder / MODEL).stat().st_size
    say(f"wrote {shown(folder / MODEL)}, {size / 1e6:.1f} MB")
