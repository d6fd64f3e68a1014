"""An exported network as a package for bioimage.io."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from dataloader.synthetic import make_volume
from model.checkpoint import Checkpoint
from model.segmentor import Segmentor
from prediction.metrics import THRESHOLD
from prediction.onnx import INPUT, ONNX, OUTPUT, PURPOSE, PairProbabilities, opset
from prediction.pictures import contours, side_by_side
from utils.errors import UserError
from utils.files import write_picture
from utils.optional import wanted

PACKAGE = "bioimageio.zip"
TEST_SIDE = 256  # pixels of the package's test pair


def write_package(
    network: PairProbabilities, checkpoint: Checkpoint, name: str, work: Path
) -> None:
    """Write the package, and have bioimageio.core test it.

    Args:
        network: computes the test output.
        checkpoint: that the network was exported from.
        name: of the model.
        work: folder with ``model.onnx``, to which the package is written.

    Raises:
        UserError: bioimageio.core does not accept the package.
    """
    _write_contents(network, checkpoint, name, work)
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


def _write_contents(
    network: PairProbabilities, checkpoint: Checkpoint, name: str, work: Path
) -> None:
    """Write a test pair, the network's output for it, a cover picture and the documentation."""
    images, _ = make_volume(0, (2, TEST_SIDE, TEST_SIDE))
    raw = images[None].astype(np.float32)
    low, high = (f(raw, axis=(2, 3), keepdims=True) for f in (np.min, np.max))
    pair = ((raw - low) / (high - low + 1e-6)).astype(np.float32)  # as ScaleRange preprocesses
    with torch.no_grad():
        probability = network(torch.from_numpy(pair)).numpy()
    np.save(work / "test_input.npy", raw)
    np.save(work / "test_output.npy", probability)
    panels = [contours(images[n], probability[0, n] >= THRESHOLD) for n in range(2)]
    write_picture(work / "cover.png", side_by_side(panels))
    (work / "README.md").write_text(_documentation(name, checkpoint), encoding="utf-8")


def _description(name: str, work: Path):
    """The description of the model in bioimage.io's format 0.5."""
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


def _plain(name: str) -> str:
    """The name, reduced to the characters that the format allows."""
    plain = "".join(c if (c.isascii() and c.isalnum()) or c in "_- ()" else " " for c in name)
    return f"Mitochondria {' '.join(plain.split())}"[:128]


def _documentation(name: str, checkpoint: Checkpoint) -> str:
    size = f"{checkpoint.pixel_size:g} nm" if checkpoint.pixel_size else "not resampled"
    return f"""# {name}

Segments mitochondria in electron-microscopy volumes from pairs of neighbouring sections. Input:
two grey sections (channels `current` and `auxiliary`), each scaled to [0, 1] by its minimum and
maximum; sides are multiples of {Segmentor.SIZE_MULTIPLE}. Output: the probability of mitochondria
in each.

- checkpoint: iteration {checkpoint.iteration}, chosen by: {checkpoint.chosen_by}
- pixel size during training: {size}
- method, to be cited: Huang, Liu, Cheng, Zhang, Xiong: Domain Adaptive Mitochondria Segmentation
  via Enforcing Inter-Section Consistency. MICCAI 2022. This is an independent implementation.

## Validation

The test output was computed with PyTorch. The ONNX network was compared with it at several sizes.
To validate the model on your volume, predict a few sections and compare them with your own labels.

## Licence

The code is under the MIT licence. The weights were trained on volumes that have licences of their
own, whose terms on trained models apply to the weights as well.
"""
