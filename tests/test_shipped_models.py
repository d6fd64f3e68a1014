"""The models that are handed on in models/: sound, small, and as good as their cards say."""

import re
from pathlib import Path

import pytest
import torch

from dataloader.roles import as_trained, open_images, open_labels
from model.checkpoint import MODEL, load_checkpoint, segmentor_from
from prediction.metrics import Counts
from prediction.predictor import NetworkPredictor, Task, predict_volume
from prediction.volume import choose_pairs, choose_windows
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, ROOT, Workspace

SHIPPED = sorted(path.parent for path in (ROOT / "models").glob(f"*_small_plus/{MODEL}"))
LARGEST = 4e6  # bytes
SAID = ("Licence", "Training", "Scores", "Limits", "seed", "iteration", "random_seed")


def test_there_are_some() -> None:
    assert {path.name for path in SHIPPED} >= {
        "vnc2lucchi1_small_plus",
        "vnc2lucchi2_small_plus",
        "vnc2fafb_small_plus",
    }


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda path: path.name)
def test_a_model_is_small_and_has_a_card(folder: Path) -> None:
    path = folder / MODEL
    assert path.stat().st_size < LARGEST
    checkpoint = load_checkpoint(path)
    assert {value.dtype for value in checkpoint.weights.values()} == {torch.float16}
    config = load_config(folder.name, [], CONFIG_DIR).config
    assert checkpoint.weights["section_full.conv1.bias"].numel() == config.MODEL.width
    assert checkpoint.iteration == config.TRAIN.total_iters
    assert checkpoint.pixel_size == config.DATA.pixel_size_working
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert [word for word in SAID if word not in card] == []
    assert f"main.py -c {folder.name}" in card
    assert f"inference.py -c {folder.name} -mn {folder.name}" in card


@pytest.mark.parametrize(
    ("name", "sections"), [("vnc2lucchi2_small_plus", (40, 120)), ("vnc2fafb_small_plus", (1,))]
)
def test_a_model_finds_mitochondria(shared: Path, name: str, sections: tuple[int, ...]) -> None:
    folder, config = ROOT / "models" / name, load_config(name, [], CONFIG_DIR).config
    workspace = Workspace(shared / "data", ROOT)
    path = folder / MODEL
    checkpoint = load_checkpoint(path)
    data = as_trained(config.DATA, checkpoint.pixel_size)
    volume = open_images(workspace, data, "val", keep=False)
    labels = open_labels(workspace, data, "val", keep=False)
    predict = NetworkPredictor(segmentor_from(checkpoint, path), torch.device("cpu"))
    pairs = [p for p in choose_pairs(config, volume) if p[0] in sections]
    found = dict(
        predict_volume(
            predict, Task(volume, pairs, choose_windows(config, volume)), sections=sections
        )
    )
    said = float(re.search(r"F1 (\d\d\.\d)", (folder / "README.md").read_text("utf-8"))[1])
    for index in sections:
        f1 = Counts.of(found[index] >= 0.5, labels.section(index)).f1
        assert 100 * f1 > said - 20, index  # sections differ, and this is one pair of each
