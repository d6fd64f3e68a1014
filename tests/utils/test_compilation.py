"""torch.compile: where it is used, that it changes nothing, and what happens where it fails."""

import shutil

import pytest
import torch
from torch import nn

from model.segmentor import ConvBlock
from utils.config.schema import TrainSettings
from utils.runtime.device import compiled


def test_for_long_runs_unless_the_config_decides() -> None:
    cpu, gpu, other = torch.device("cpu"), torch.device("cuda"), torch.device("mps")
    for iterations, expected in ((100, []), (1500, [cpu]), (200_000, [cpu, gpu])):
        settings = TrainSettings(total_iters=iterations)
        assert [device for device in (cpu, gpu, other) if settings.compiles(device)] == expected
    for choice in (True, False):
        assert TrainSettings(compile=choice).compiles(cpu) is choice
        assert TrainSettings(compile=choice).compiles(gpu) is choice


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")
def test_a_compiled_block_gives_the_same(capsys) -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 4).to(torch.float64, memory_format=torch.channels_last)
    maps = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    maps = maps.to(memory_format=torch.channels_last)
    gradients = []
    for network in (block, compiled(block)):
        block.zero_grad()
        result = network(maps)
        result.square().sum().backward()
        gradients.append([result, *(p.grad for p in block.parameters())])
    assert network is not block
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert capsys.readouterr().err == ""


def test_without_a_compiler_the_network_runs_as_it_is(capsys) -> None:
    torch.compiler.reset()
    block = nn.Conv2d(1, 1, 1)
    nowhere = {"cpp.cxx": (None, "/nowhere/g++"), "fx_graph_cache": False}
    with torch._inductor.config.patch(nowhere):
        assert compiled(block) is block
    error = capsys.readouterr().err
    assert error.startswith("warning: TRAIN.compile: compilation does not work, so")
    assert error.count("\n") == 1
