"""The network's figure against the network."""

import re
import runpy
from math import prod

import pytest

from model.segmentor import Segmentor
from utils.paths import ROOT

SCRIPT = ROOT / "docs/draw_network.py"


@pytest.fixture(scope="module")
def figure() -> dict:
    return runpy.run_path(str(SCRIPT))


def test_the_figure_is_what_its_script_draws(figure: dict) -> None:
    assert (ROOT / "docs/network.svg").read_text(encoding="utf-8") == figure["draw"]()


def test_the_figure_shows_the_network(figure: dict) -> None:
    network = Segmentor(64)
    blocks = {
        "encoder": {
            "full": network.section_full,
            "half": network.section_half,
            "quarter": network.pair_quarter,
            "eighth": network.pair_eighth,
            "sixteenth": network.pair_sixteenth,
        },
        "masks": {
            "full": network.seg_current.up_full.block,
            "half": network.seg_current.up_half.block,
            "quarter": network.seg_coarse.up_quarter.block,
            "eighth": network.seg_coarse.up_eighth.block,
        },
        "residual": {
            "full": network.residual_fine.up_full.block,
            "half": network.residual_fine.up_half.block,
            "quarter": network.residual_coarse.up_quarter.block,
            "eighth": network.residual_coarse.up_eighth.block,
        },
    }
    for part, levels in blocks.items():
        for level, block in levels.items():
            label, _ = figure["BLOCKS"][part][level]
            terms, out = label.split(" → ")
            channels = sum(prod(map(int, term.split("·"))) for term in terms.split(" + "))
            assert (channels, int(out)) == (block.conv1.in_channels, block.conv2.out_channels)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert re.search(f"<title>.*{count:,} parameters</title>", figure["draw"]())
