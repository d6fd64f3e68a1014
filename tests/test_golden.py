"""The method, number by number, against independently computed golden numbers."""

import json
import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks.plain import plain_scores
from dataloader.formats.folder import read_section
from dataloader.synthetic import write_sections
from loss.consistency import pseudo_labels
from model.checkpoint import Checkpoint, save_checkpoint
from model.discriminator import build_discriminator
from model.published import to_published
from model.segmentor import PairLogits, Segmentor
from prediction.inference import Inference, Request, open_inference
from prediction.predict import predict
from prediction.predictor import NetworkPredictor
from prediction.scoring import measure
from tests.golden.formula import blobs, fill_segmentor, fill_weights, moving_blobs
from tests.plain_inference import predicted, predicted_in_tiles
from tests.settings import config_of
from training.setup import Learning, join
from utils.config.schema import Config
from utils.paths import Workspace

TRAINING_TOLERANCE = 1e-8
INFERENCE_TOLERANCE = 1e-4  # absolute; of probabilities and scores

# golden column -> name in our report
COLUMNS = {
    "loss_seg_current": "seg_source_current",
    "loss_seg_auxiliary": "seg_source_auxiliary",
    "loss_residual": "seg_source_residual",
    "loss_consistency": "consistency_target",
    "loss_adv_seg": "adv_target_seg",
    "loss_adv_res": "adv_target_residual",
    "loss_disc_seg": "disc_seg",
    "loss_disc_res": "disc_residual",
    "grad_norm_segmentor": "grad_norm_segmentor",
    "grad_norm_disc_seg": "grad_norm_disc_seg",
    "grad_norm_disc_res": "grad_norm_disc_residual",
}


GOLDEN = Path(__file__).parent / "golden"
FOLDERS = [GOLDEN, *map(Path, filter(None, [os.environ.get("GOLDEN_DIR")]))]


@pytest.fixture(scope="module", params=FOLDERS, ids=lambda folder: folder.name)
def training(request: pytest.FixtureRequest) -> tuple[dict, dict]:
    """Settings and golden arrays of the training steps; GOLDEN_DIR names a further folder."""
    with np.load(request.param / "training_step.npz") as arrays:
        return json.loads((request.param / "settings.json").read_text()), dict(arrays)


def golden_learning(settings: dict, memory_format: torch.memory_format, device: str) -> Learning:
    """The networks on formula-made weights, float64."""
    rate = settings["learning_rate"]
    skipped = ("size", "iterations", "seed", "learning_rate")
    config = config_of(
        **{key: value for key, value in settings.items() if key not in skipped},
        **dict.fromkeys(("learning_rate", "learning_rate_ms", "learning_rate_mt"), rate),
    )
    networks = (
        fill_segmentor(Segmentor()),
        fill_weights(build_discriminator(), "disc_seg."),
        fill_weights(build_discriminator(), "disc_res."),
    )
    networks = (net.to(device, torch.float64, memory_format=memory_format) for net in networks)
    return join(list(networks), config)


def pair(
    settings: dict, iteration: int, domain: str, device: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and masks of the pair fed at an iteration, with a batch dimension."""
    offset = 0 if domain == "source" else 1000
    images, masks = blobs(settings["seed"] + offset + 2 * iteration, settings["size"])
    return tuple(torch.from_numpy(array)[None].to(device) for array in (images, masks))


def close(found: torch.Tensor, golden: np.ndarray) -> None:
    """Demand the golden values to 1e-8, relative to the largest."""
    error = np.abs(found.detach().cpu().numpy() - golden).max() / np.abs(golden).max()
    assert error < TRAINING_TOLERANCE


MEMORY_FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=str
)


DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@DEVICES
@MEMORY_FORMATS
def test_networks_and_pseudo_labels(
    training: tuple[dict, dict], memory_format: torch.memory_format, device: str
) -> None:
    settings, golden = training
    made = golden_learning(settings, memory_format, device)
    source, _ = pair(settings, 1, "source", device)
    close(source, golden["source_input"])
    logits = made.networks.segmentor(source)
    for head in PairLogits._fields:
        name = head if head == "residual" else f"seg_{head}"
        close(getattr(logits, head), golden[f"source_{name}"])

    target = made.networks.segmentor(pair(settings, 1, "target", device)[0])
    close(made.networks.disc_seg(target.current.softmax(1)), golden["disc_seg_on_target"])
    close(made.networks.disc_residual(target.residual.softmax(1)), golden["disc_res_on_target"])
    current, auxiliary = pseudo_labels(*target)
    np.testing.assert_array_equal(current.cpu(), golden["pseudo_current"])
    np.testing.assert_array_equal(auxiliary.cpu(), golden["pseudo_auxiliary"])


@DEVICES
@MEMORY_FORMATS
def test_training_steps(
    training: tuple[dict, dict], memory_format: torch.memory_format, device: str
) -> None:
    settings, golden = training
    made = golden_learning(settings, memory_format, device)
    columns = list(golden["columns"])
    assert set(columns) == {*COLUMNS, "lr"}
    for iteration, row in enumerate(golden["history"], start=1):
        source, masks = pair(settings, iteration, "source", device)
        target, _ = pair(settings, iteration, "target", device)
        report = made.steps.adapt(iteration, source, masks, target)
        expected = dict(zip(columns, row, strict=True))
        found = {column: float(report[name]) for column, name in COLUMNS.items()}
        assert found == pytest.approx(
            {column: expected[column] for column in COLUMNS}, rel=TRAINING_TOLERANCE, abs=1e-15
        )
        for rate in made.learner.learning_rates.values():
            assert rate == pytest.approx(expected["lr"], rel=1e-12)


def test_published_names_and_shapes() -> None:
    published = json.loads((GOLDEN / "released_checkpoint_shapes.json").read_text())
    ours = to_published(Segmentor().state_dict())
    assert {key: list(value.shape) for key, value in ours.items()} == published


# kind -> which part of VNC3 is predicted, and how
VOLUMES = {
    "sections": {"files": range(4), "rows": slice(100, 868), "columns": slice(0, 1024)},
    "tiled": {"files": range(4, 7), "rows": slice(200, 712), "columns": slice(300, 812)},
}
STRIDES = {"sections": 2, "tiled": 1}
MEASURES = {
    "sections": {"map_f1_mcc_iou": "map", "dice_jac": "dice"},
    "tiled": {"map_f1_mcc_iou_2d": "map_2d", "map_f1_mcc_iou_3d": "map_3d"},
}


def vnc3_part(shared: Path, kind: str, folder: str) -> np.ndarray:
    """Sections (Z, H, W) of one of VNC3's folders."""
    part = VOLUMES[kind]
    files = [shared / "data/VNC3" / folder / f"{n:02d}.png" for n in part["files"]]
    return np.stack([read_section(file)[part["rows"], part["columns"]] for file in files])


def write_volume(path: Path, kind: str, volume: np.ndarray) -> None:
    """A folder of PNG sections, or an HDF5 file."""
    if kind == "sections":
        write_sections(path, volume)
    else:
        with h5py.File(path.with_suffix(".hdf"), "w") as file:
            file["main"] = volume


def infer(
    folder: Path, kind: str, device: str, images: np.ndarray, masks: np.ndarray, **test
) -> tuple:
    """Predict a volume with the golden segmentor, as a folder of sections or in tiles."""
    write_volume(folder / "images", kind, images)
    write_volume(folder / "masks", kind, masks)
    (folder / "models/golden").mkdir(parents=True)
    weights = fill_segmentor(Segmentor()).state_dict()
    save_checkpoint(folder / "models/golden/model.ckpt", Checkpoint(weights, iteration=0))
    config = Config(
        NAME="golden",
        DATA={
            **dict.fromkeys(("data_dir_img", "data_dir_target", "data_dir_val"), "images"),
            **dict.fromkeys(("data_dir_label", "data_dir_val_label"), "masks"),
            "target_stride": STRIDES[kind],
        },
        TEST={"precision": "float32", **test},
    )
    workspace = Workspace(data=folder, out=folder)
    inference = open_inference(config, workspace, Request("golden"), torch.device(device))
    with torch.backends.cudnn.flags(allow_tf32=False):
        return inference, predict(inference)


def probability_of(inference: Inference) -> np.ndarray:
    with h5py.File(inference.predictions) as file:
        return file["main"][:]


@DEVICES
@pytest.mark.parametrize("kind", VOLUMES)
def test_inference_of_a_real_volume(kind: str, device: str, shared: Path, tmp_path: Path) -> None:
    folders = ("training", "training_groundtruth")
    volumes = (vnc3_part(shared, kind, folder) for folder in folders)
    tiles = {"tile": 512, "tile_step": 256, "tile_pad": 256}
    inference, derived = infer(tmp_path, kind, device, *volumes, **tiles)
    with np.load(GOLDEN / "inference.npz") as arrays:
        golden = {key.removeprefix(f"{kind}/"): arrays[key] for key in arrays if kind in key}
    probability = probability_of(inference)
    alike = partial(np.testing.assert_allclose, rtol=0, atol=INFERENCE_TOLERANCE)
    alike(probability[:, ::8, ::8], golden["probability_every8"])
    alike(probability.mean((1, 2), dtype=np.float64), golden["mean"])
    for name, kind_of_scores in MEASURES[kind].items():
        alike(measure(inference, kind_of_scores, derived).scores, golden[name])


@DEVICES
@pytest.mark.parametrize("kind", VOLUMES)
def test_inference_of_a_formula_made_volume(kind: str, device: str, tmp_path: Path) -> None:
    images, masks = moving_blobs(7, (4, 64, 96))
    windows = {"padded_size": (96, 128), "tile": 64, "tile_step": 32, "tile_pad": 16}
    inference, derived = infer(tmp_path, kind, device, images, masks, **windows)
    network = NetworkPredictor(fill_segmentor(Segmentor()), torch.device("cpu"))
    if kind == "sections":
        expected = predicted(network, images, STRIDES[kind], (96, 128))
    else:
        expected = predicted_in_tiles(network, images, STRIDES[kind], tile=64, pad=16)
    found = probability_of(inference)
    np.testing.assert_allclose(found, expected, rtol=0, atol=INFERENCE_TOLERANCE)
    scores = plain_scores(found, masks > 0)
    np.testing.assert_allclose(measure(inference, "map", derived).scores, scores, rtol=0, atol=1e-6)
