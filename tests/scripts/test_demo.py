"""The demo, cut short: what it leaves, and that adaptation helps."""

import re

import cv2
import pytest

from utils.paths import Workspace


@pytest.mark.auto_precision
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


def test_adaptation_helps(command, tmp_path) -> None:
    shorter = ["TRAIN.total_iters=250", "TRAIN.rampup_iters=250", "DATA.input_size=96"]
    shorter += ["TRAIN.learning_rate=0.004", "TRAIN.precision=float32", "TEST.precision=float32"]
    settings = [part for setting in shorter for part in ("--set", setting)]
    result = command("demo", "--out", tmp_path, *settings)
    assert result.code == 0, result.err
    found = re.search(r"source-only F1=(\S+) adapted F1=(\S+)$", result.out.strip())
    source_only, adapted = map(float, found.groups())
    assert source_only > 0.3  # it has learned something
    assert adapted > source_only + 0.02
