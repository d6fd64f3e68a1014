"""torch.compile: that it changes nothing, and what happens where it fails."""

import shutil

import pytest
import torch

from model.segmentor import ConvBlock
from utils.runtime.device import can_compile


@pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs g++")
def test_a_compiled_block_gives_the_same(capsys) -> None:
    torch.manual_seed(0)
    block = ConvBlock(3, 4).to(torch.float64, memory_format=torch.channels_last)
    maps = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    maps = maps.to(memory_format=torch.channels_last)
    gradients = []
    assert can_compile(torch.device("cpu"), "TRAIN.compile")
    for network in (block, torch.compile(block)):
        block.zero_grad()
        result = network(maps)
        result.square().sum().backward()
        gradients.append([result, *(p.grad for p in block.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert capsys.readouterr().err == ""


def test_without_a_compiler_one_line_says_so(capsys) -> None:
    torch.compiler.reset()
    with torch._inductor.config.patch({"cpp.cxx": (None, "/nowhere/g++")}):
        assert not can_compile(torch.device("cpu"), "TEST.compile")
    error = capsys.readouterr().err
    assert error.startswith("warning: TEST.compile: compilation does not work, so")
    assert error.count("\n") == 1
