"""The compiled network in inference: when it is used, and that it predicts the same."""

from functools import partial

import numpy as np
import torch

from model.segmentor import Segmentor
from prediction.compilation import COMPILING, SAVED, shapes_to_compile
from prediction.orthoplane import SlicingAxis
from prediction.predictor import NetworkPredictor, predict_volume, section_pairs
from prediction.windows import tiles
from tests.helpers import ArrayVolume, noise

CPU = torch.device("cpu")


def axis_of(array: np.ndarray, tile: int, step: int) -> SlicingAxis:
    windows = tiles(array.shape[1:], tile, step, 0)
    return SlicingAxis("xy", 0, ArrayVolume(array), section_pairs(len(array), 1), windows, 1)


def test_compiled_probabilities_are_the_same(monkeypatch) -> None:
    """Traced, and run by PyTorch: generating code takes a minute (tests/utils/test_compilation)."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    torch.manual_seed(0)
    segmentor = Segmentor(width=4).eval().to(memory_format=torch.channels_last)
    axis = axis_of(noise(3, 32, 80), tile=32, step=24)  # 3 tiles: a batch of 2, and one of 1
    predict = NetworkPredictor(segmentor, CPU)
    expected = dict(predict_volume(predict, axis.task(batch_size=2)))
    shapes = shapes_to_compile(True, [axis], predict, batch_size=2)
    assert sorted(shapes) == [(1, 32, 32), (2, 32, 32)]
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    predict.compile_for(shapes)
    found = dict(predict_volume(predict, axis.task(batch_size=2)))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - before
    assert graphs == 1 + 2 * len(shapes)  # the trial; encode and decode
    for index, probability in expected.items():
        np.testing.assert_allclose(found[index], probability, rtol=0, atol=1e-5)


def test_large_volumes_are_compiled_unless_the_config_decides() -> None:
    small, large = axis_of(noise(2, 32, 32), 32, 16), axis_of(noise(2, 32, 32), 32, 16)
    large = large._replace(pairs=10**7 * large.pairs)
    wide, narrow = (NetworkPredictor(Segmentor(width), CPU) for width in (16, 8))
    shape = [(1, 32, 32)]
    assert shapes_to_compile("auto", [small], wide, 1) == []
    assert shapes_to_compile("auto", [small, large], wide, 1) == shape
    assert shapes_to_compile("auto", [large], narrow, 1) == shape
    # a thousandth of the work for each of a thousand processes
    assert shapes_to_compile("auto", [large], narrow, 1, processes=1000) == []
    assert shapes_to_compile(False, [large], wide, 1) == []
    assert shapes_to_compile(True, [small], wide, 1) == shape
    # eight views of each window
    enough = COMPILING / (SAVED[torch.float32] * 8 * 32 * 32) * torch.get_num_threads()
    fewer = large._replace(pairs=small.pairs * int(enough / 4))
    assert shapes_to_compile("auto", [fewer], narrow, 1) == []
    assert shapes_to_compile("auto", [fewer], narrow, 1, flips=True) == shape
    on_gpu = NetworkPredictor(wide.segmentor, torch.device("cuda"))
    assert shapes_to_compile("auto", [large], on_gpu, 1) == []
