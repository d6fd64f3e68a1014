"""The demo, cut short: what it leaves and how it ends, not how well it learns."""

import re

import cv2
import pytest

from utils.paths import Workspace

pytestmark = pytest.mark.auto_precision


def test_demo_compares_two_models(command, tmp_path) -> None:
    result = command(
        "demo", "--out", tmp_path, "--set", "TRAIN.total_iters=2", "--set", "MODEL.width=2"
    )
    assert result.code == 0
    assert re.fullmatch(
        r"demo: source-only F1=\d\.\d{3} adapted F1=\d\.\d{3}", result.out.splitlines()[-1]
    )
    workspace = Workspace(tmp_path / "data", tmp_path)
    assert not (workspace.data / "demo/target_groundtruth").exists()
    assert cv2.imread(str(workspace.inference("demo.png"))).shape[1] > 3 * 500
    for model in ("demo-source-only", "demo-adapted"):
        assert (workspace.inference(model) / "scores.txt").is_file()
