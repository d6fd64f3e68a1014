"""A segmentor as ONNX, checked against PyTorch, as a bioimage.io package, or in half precision."""

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dataloader.synthetic import make_volume
from model.checkpoint import MODEL, Checkpoint, load_checkpoint, save_checkpoint, segmentor_from
from model.segmentor import Segmentor
from prediction.pictures import contours, side_by_side
from utils.errors import UserError, writing_to
from utils.files import write_picture
from utils.optional import wanted
from utils.paths import shown

PURPOSE = "to export a model"
ONNX, PACKAGE = "model.onnx", "bioimageio.zip"
TOLERANCE = 1e-4  # of probabilities, ONNX against PyTorch
SIZES = ((1, 64, 64), (2, 96, 64), (1, 256, 320))  # batch, height, width of the check
TEST_SIDE = 256  # pixels, of the package's test pair
INPUT, OUTPUT = "pair", "probability"


class PairProbabilities(nn.Module):
    """From pairs (B, 2, H, W) in [0, 1] to mitochondria probabilities of both sections."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, pair: Tensor) -> Tensor:
        """(B, 2, H, W) in [0, 1]: current and auxiliary."""
        # each section by itself: a batch cut in two would fix its size in ONNX
        sections = (self.segmentor.encode_sections(pair[:, n : n + 1]) for n in range(2))
        logits = self.segmentor.decode_pair(*sections, with_residual=False)
        both = torch.stack([logits.current, logits.auxiliary], dim=1)  # (B, 2 sections, 2, H, W)
        return both.softmax(2)[:, :, 1]


def export(
    checkpoint_file: Path, folder: Path, name: str, say: Callable[[str], None] = print
) -> None:
    """Write ``model.onnx`` and ``bioimageio.zip`` of a checkpoint.

    Args:
        checkpoint_file: ours or a published one.
        folder: for the two files.
        name: of the model.
        say: receives the lines for the user.

    Raises:
        UserError: the checkpoint is missing or broken, a package is missing, or the exported
            network does not compute the same.
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
    """Write a checkpoint's weights in float16 as ``folder/model.ckpt``, for ``inference.py``.

    Networks compute in float32 with them, as with others; they are what they were to 0.05 %.

    Raises:
        UserError: the checkpoint is missing or broken, or a weight is too large for float16.
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


def write_onnx(network: PairProbabilities, path: Path) -> None:
    """Export with free batch, height and width, the two latter multiples of 16."""
    dimension = torch.export.Dim
    step = Segmentor.SIZE_MULTIPLE
    shapes = {
        "pair": {
            0: dimension("batch", min=1),
            2: step * dimension("rows", min=2),
            3: step * dimension("columns", min=2),
        }
    }
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        torch.onnx.export(
            network,
            (torch.rand(2, 2, 64, 96),),
            path,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def largest_difference(network: PairProbabilities, path: Path) -> float:
    """Of the probabilities by onnxruntime and by PyTorch, over several sizes."""
    session = wanted("onnxruntime", PURPOSE).InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for batch, height, width in SIZES:
        pair = torch.rand(batch, 2, height, width, generator=generator)
        with torch.no_grad():
            expected = network(pair).numpy()
        (found,) = session.run(None, {INPUT: pair.numpy()})
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def write_package(
    network: PairProbabilities, checkpoint: Checkpoint, name: str, work: Path
) -> None:
    """Write the package for bioimage.io, tested by its own library.

    Args:
        network: gives the test output.
        checkpoint: what it was exported from.
        name: of the model.
        work: folder with ``model.onnx``; the package is written beside it.

    Raises:
        UserError: the library does not accept it.
    """
    images, _ = make_volume(0, (2, TEST_SIDE, TEST_SIDE))
    raw = images[None].astype(np.float32)
    low, high = (f(raw, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    # as the package's preprocessing divides
    pair = ((raw - low) / (high - low + 1e-6)).astype(np.float32)
    with torch.no_grad():
        probability = network(torch.from_numpy(pair)).numpy()
    np.save(work / "test_input.npy", raw)
    np.save(work / "test_output.npy", probability)
    panels = [contours(images[n], probability[0, n] >= 0.5) for n in range(2)]
    write_picture(work / "cover.png", side_by_side(panels))
    (work / "README.md").write_text(_documentation(name, checkpoint), encoding="utf-8")
    model = _description(name, work)
    core = wanted("bioimageio.core", PURPOSE)
    spec = wanted("bioimageio.spec", PURPOSE)
    logging.getLogger("bioimageio").setLevel(logging.ERROR)
    wanted("loguru", PURPOSE).logger.disable("bioimageio")
    with (
        warnings.catch_warnings(action="ignore"),
        spec.ValidationContext(root=work, perform_io_checks=True, update_hashes=True),
    ):
        path = spec.save_bioimageio_package(model, output_path=work / PACKAGE)
        summary = core.test_description(path, expected_type="model")
    if summary.status != "passed":
        problem = next((d for d in summary.details if d.errors), None)
        reason = problem.errors[0].msg if problem else summary.status
        raise UserError(f"{name}: bioimageio.core does not accept the package: {reason}")


def _description(name: str, work: Path):
    """The model's description for bioimage.io (format 0.5)."""
    v5 = wanted("bioimageio.spec.model.v0_5", PURPOSE)
    step = Segmentor.SIZE_MULTIPLE
    channels = [v5.Identifier("current"), v5.Identifier("auxiliary")]

    def space(side: str, **size):
        return v5.SpaceInputAxis(id=v5.AxisId(side), **size)

    least = v5.ParameterizedSize(min=2 * step, step=step)
    inputs = v5.InputTensorDescr(
        id=v5.TensorId(INPUT),
        description="Two neighbouring sections of a volume.",
        axes=[
            v5.BatchAxis(),
            v5.ChannelAxis(channel_names=channels),
            space("y", size=least),
            space("x", size=least),
        ],
        test_tensor=v5.FileDescr(source=work / "test_input.npy"),
        preprocessing=[
            v5.ScaleRangeDescr(
                kwargs=v5.ScaleRangeKwargs(
                    axes=(v5.AxisId("y"), v5.AxisId("x")),
                    min_percentile=0.0,
                    max_percentile=100.0,
                )
            )
        ],
    )
    outputs = v5.OutputTensorDescr(
        id=v5.TensorId(OUTPUT),
        description="Probability of mitochondria in each of the two sections.",
        axes=[
            v5.BatchAxis(),
            v5.ChannelAxis(channel_names=channels),
            *(
                v5.SpaceOutputAxis(
                    id=v5.AxisId(side),
                    size=v5.SizeReference(tensor_id=v5.TensorId(INPUT), axis_id=v5.AxisId(side)),
                )
                for side in "yx"
            ),
        ],
        test_tensor=v5.FileDescr(source=work / "test_output.npy"),
    )
    return v5.ModelDescr(
        name=_plain(name),
        description="Mitochondria in electron microscopy, from two neighbouring sections (DA-ISC).",
        authors=[v5.Author(name="The maintainers of this repository")],
        license="MIT",
        documentation=v5.FileDescr(source=work / "README.md"),
        covers=[v5.FileDescr(source=work / "cover.png")],
        tags=["mitochondria", "electron-microscopy", "segmentation", "2d", "domain-adaptation"],
        inputs=[inputs],
        outputs=[outputs],
        weights=v5.WeightsDescr(
            onnx=v5.OnnxWeightsDescr(source=work / ONNX, opset_version=opset(work / ONNX))
        ),
    )


def opset(path: Path) -> int:
    """The ONNX operator set of a file."""
    model = wanted("onnx", PURPOSE).load(path, load_external_data=False)
    return next(entry.version for entry in model.opset_import if not entry.domain)


def _plain(name: str) -> str:
    """The name in the letters that the format allows."""
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "_- ()" else " " for c in name)
    return f"Mitochondria {' '.join(plain.split())}"[:128]


def _documentation(name: str, checkpoint: Checkpoint) -> str:
    size = f"{checkpoint.pixel_size:g} nm" if checkpoint.pixel_size else "not resampled"
    return f"""# {name}

Mitochondria of electron-microscopy volumes, from pairs of neighbouring sections. Input: two grey
sections (channels `current` and `auxiliary`), each scaled to [0, 1] by its least and largest value;
sides are multiples of {Segmentor.SIZE_MULTIPLE}. Output: the probability of mitochondria in each.

- checkpoint: iteration {checkpoint.iteration}, chosen by: {checkpoint.chosen_by}
- pixel size it was trained at: {size}
- method, to be cited: Huang, Liu, Cheng, Zhang, Xiong: Domain Adaptive Mitochondria Segmentation
  via Enforcing Inter-Section Consistency. MICCAI 2022. The code is written anew.

## Validation

The test output is that of PyTorch; the ONNX weights were checked against it at several sizes.
Scores on your own volume: predict some sections, compare them with labels of your own.

## Licence

The code is under the MIT licence. The weights were learned from the volumes of whoever trained
them; what those volumes' licences say of such use holds for the weights as well.
"""
