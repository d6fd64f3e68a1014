"""A segmentor as ONNX, and how far its output is from PyTorch's."""

import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from model.segmentor import Segmentor
from utils.optional import wanted

PURPOSE = "to export a model"
ONNX = "model.onnx"
SIZES = ((1, 64, 64), (2, 96, 64), (1, 256, 320))  # batch, height, width to compare at
INPUT, OUTPUT = "pair", "probability"


class PairProbabilities(nn.Module):
    """Mitochondria probabilities of both sections of pairs."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, pair: Tensor) -> Tensor:
        """Pairs (B, 2, H, W) in [0, 1], current and auxiliary, to probabilities of that shape."""
        # Sections are encoded one by one: splitting a batch would fix its size in ONNX.
        sections = (self.segmentor.encode_sections(pair[:, n : n + 1]) for n in range(2))
        logits = self.segmentor.decode_pair(*sections, with_residual=False)
        both = torch.stack([logits.current, logits.auxiliary], dim=1)  # (B, 2 sections, 2, H, W)
        return both.softmax(2)[:, :, 1]


def write_onnx(network: PairProbabilities, path: Path) -> None:
    """Export with variable batch size, height and width; the sides are multiples of 16."""
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
    """Largest difference of probabilities between ONNX Runtime and PyTorch, at several sizes."""
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


def opset(path: Path) -> int:
    """Version of the ONNX operator set of a file."""
    model = wanted("onnx", PURPOSE).load(path, load_external_data=False)
    return next(entry.version for entry in model.opset_import if not entry.domain)
