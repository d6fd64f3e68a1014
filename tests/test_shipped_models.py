"""The models that are handed on in models/: sound, small, and as good as their cards say."""

import json
import re
from pathlib import Path

import pytest
import torch

from model.checkpoint import MODEL, load_checkpoint
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, ROOT

NAMES = ("*_small_plus", "generalist_small")
SHIPPED = sorted(
    path.parent for name in NAMES for path in (ROOT / "models").glob(f"{name}/{MODEL}")
)
LARGEST = 4e6  # bytes
# model -> number of its first sections that are scored, as its card says; None: all
# the number of sections that are predicted; None: all
SCORED = {
    "generalist_small": None,
    "vnc2fafb_small_plus": None,
    "vnc2lucchi2_small_plus": 25,
    "vnclucchi2fafb_small_plus": None,
    "vnclucchi2snemi3d_small_plus": None,
    "vnclucchi2trakem2_small_plus": None,
}
SAID = ("Licence", "Training", "Scores", "Limits", "seed", "iteration", "random_seed")


def test_there_are_some() -> None:
    assert {path.name for path in SHIPPED} >= {"vnc2lucchi1_small_plus", *SCORED}


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
    assert ("**Scores.** None here" in card) == (folder.name not in SCORED)
    assert f"main.py -c {folder.name}" in card
    assert f"inference.py -c {folder.name} -mn {folder.name}" in card


@pytest.mark.auto_precision
@pytest.mark.parametrize("name", SCORED)
def test_a_model_scores_what_its_card_says(command, shared, tmp_path, name: str) -> None:
    """By the card's command; the models lie in the checkout, what is written does not."""
    models = ("--set", f"TRAIN.save_path={ROOT / 'models'}")
    places = ("--data", shared / "data", "--out", tmp_path, "--device", "cpu", *models)
    card, some = (ROOT / "models" / name / "README.md").read_text("utf-8"), ()
    if SCORED[name]:
        volume = shared / "data" / load_config(name, [], CONFIG_DIR).config.DATA.data_dir_val
        names = sorted(path.name for path in volume.iterdir())[: SCORED[name]]
        (tmp_path / "first.txt").write_text("\n".join(names))
        some = ("--set", f"DATA.data_list_val={tmp_path / 'first.txt'}")
        card = card.partition(f"The first {SCORED[name]} sections alone")[2]
    finished = command("inference", "-c", name, "-mn", name, *places, *some)
    assert finished.code == 0, finished.err
    summary = json.loads((tmp_path / "inference" / name / "summary.json").read_text("utf-8"))
    found = {name: 100 * value for name, value in summary["scores"].items()}
    said = re.findall(r"(mAP|F1|MCC|IoU)\s+(\d\d\.\d)", card)
    assert {name: float(value) for name, value in said} == pytest.approx(found, abs=2)
