"""From a raw volume to its mitochondria in one command: what it leaves, how it goes on, errors."""

import csv
import filecmp
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import tifffile
import yaml

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.synthetic import SOURCE_MICROSCOPE, TARGET_MICROSCOPE, make_volume, write_sections
from prediction.shipped import quick_model, shipped_models
from tests.killing import Interrupt, run
from tests.projects import Finished

pytestmark = pytest.mark.auto_precision

SHAPE = (5, 96, 112)
SMALL = ("MODEL.width=2", "TRAIN.total_iters=10", "DATA.input_size=32", "TRAIN.save_freq=4",
         "TRAIN.precision=float32", "TEST.precision=float32", "BEYOND.foreground_ratio_limit=0",
         "BEYOND.head_prior=0.5")  # fmt: skip
SIZES = ("--pixel-size", "8", "--section-spacing", "40")


def settings(*values: str) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data root with a stand-in for VNC III; the volume beside it has no labels for the run."""
    root = tmp_path_factory.mktemp("data")
    volumes = {"VNC3/training": (1, SOURCE_MICROSCOPE), "stack": (2, TARGET_MICROSCOPE)}
    for name, (seed, microscope) in volumes.items():
        images, labels = make_volume(seed, SHAPE, microscope)
        (root / name).parent.mkdir(exist_ok=True)
        write_sections(root / name, images)
        write_sections(root / f"{name}_groundtruth", labels)
    return root


@pytest.fixture
def segment(command, data: Path, tmp_path: Path) -> Callable[..., Finished]:
    def start(volume: Path, *options: object) -> Finished:
        places = ("--data", data, "--out", tmp_path, "--device", "cpu")
        return command("segment", volume, *places, *options)

    return start


def arguments(data: Path, out: Path) -> list[str]:
    """Of a whole run with labels."""
    places = ("--data", data, "--out", out, "--device", "cpu")
    labels = ("--labels", data / "stack_groundtruth")
    return [str(part) for part in (data / "stack", *SIZES, *labels, *places, *settings(*SMALL))]


class Whole(NamedTuple):
    """An uninterrupted run: its output folder, and the lines it printed."""

    out: Path
    lines: list[str]


@pytest.fixture(scope="module")
def whole(command, data: Path, tmp_path_factory) -> Whole:
    out = tmp_path_factory.mktemp("whole")
    finished = command("segment", *arguments(data, out))
    assert finished.code == 0, finished.err
    return Whole(out, finished.out.splitlines())


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


LEFT = {"config.yaml", "segment.json", "segment.log", "preds.hdf", "objects.csv", "report.html",
        "scores.csv", "summary.json"}  # fmt: skip


def test_a_folder_of_sections_is_segmented(data: Path, whole: Whole) -> None:
    folder, lines = whole.out / "inference/stack", whole.lines
    assert content(folder) == LEFT | {"masks", "probability", "instances", "scores.txt"}
    masks = open_volume(folder / "masks")
    assert masks.shape == SHAPE
    assert masks.names == open_volume(data / "stack").names
    with (folder / "objects.csv").open() as table:
        count = len(list(csv.DictReader(table)))
    share = np.mean([masks.section(index) > 0 for index in range(len(masks))])
    (found,) = [line for line in lines if line.startswith("found: ")]
    assert found.startswith(f"found: {count} mitochond")
    assert found.endswith(f", {share:.1%} of the volume")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["volume"]["voxel_size_nm"] == [40, 8, 8]
    (scores,) = [line for line in lines if line.startswith("scores: ")]
    assert f"F1 {100 * summary['scores']['F1']:.1f} %" in scores
    objects = summary["instance_scores"]
    assert f"scores of the objects: F1 {100 * objects['F1_50']:.1f} %" in "".join(lines)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["TRAIN"]["total_iters"] == 10
    assert config["DATA"]["section_spacing_target"] == 40
    assert config["BEYOND"]["rounds"] == 3
    assert not (whole.out / "models/stack/best_on_target_labels.ckpt").exists()


def test_it_says_what_it_found_what_it_does_and_how_long_that_takes(whole: Whole) -> None:
    lines = whole.lines
    assert f"  {SHAPE[0]} sections of 96 x 112, uint8" in lines[1]
    assert any("VNC3/training (folder)" in line for line in lines)
    assert "plan: 10 iterations of a network of width 2; no labels of yours are used" in lines
    begins = [f"{stage}: done in " for stage in ("adapt", "predict", "objects", "report")]
    begins = ["time here: about ", *begins, "found: ", "scores: mAP ", "report: ", "all results: "]
    rest = iter(lines)
    assert all(any(line.startswith(begin) for line in rest) for begin in begins)  # in this order


def test_the_config_can_be_used_with_the_other_commands(command, data, whole, tmp_path) -> None:
    config = whole.out / "inference/stack/config.yaml"
    places = ("-c", config, "--data", data, "--device", "cpu")
    again = command("main", *places, "--out", tmp_path)
    assert again.code == 0, again.err
    weights = [root / "models/stack/model.ckpt" for root in (whole.out, tmp_path)]
    assert filecmp.cmp(*weights, shallow=False)
    shutil.copytree(whole.out, tmp_path / "copy")
    predicted = command("inference", *places, "--out", tmp_path / "copy")
    assert "not predicted again" in predicted.out


def test_interrupted_in_every_stage_it_goes_on_to_the_same_result(data, whole, tmp_path) -> None:
    places = [  # the file at which a stage is interrupted, what the next call says
        (Interrupt("config.yaml.part"), ""),
        (Interrupt("training_state.ckpt.part"), ""),
        (Interrupt("0.npy"), "adapt: goes on at iteration "),
        (Interrupt("objects.csv"), "adapt: kept from an earlier call"),
        (Interrupt("report.html.part", signal.SIGTERM), "adapt: kept from an earlier call"),
        (None, "adapt: kept from an earlier call"),
    ]
    for interrupt, said in places:
        code = run("segment", arguments(data, tmp_path), tmp_path, interrupt)
        output = (tmp_path / "output").read_text()
        assert code == (128 + interrupt.number if interrupt else 0), output
        assert said in output
        assert ("the same command goes on" in output.splitlines()[-1]) == bool(interrupt)
        assert "Traceback" not in output
        if "goes on at iteration" in said:
            assert "resume: true" in (tmp_path / "logs/stack/resolved.yaml").read_text()
    one, other = (folder / "inference/stack" for folder in (whole.out, tmp_path))
    assert content(one) == content(other)
    for name in ("objects.csv", "preds.hdf", "scores.csv"):
        assert filecmp.cmp(one / name, other / name, shallow=False), name


def test_an_edited_config_is_used(command, data: Path, whole: Whole, tmp_path: Path) -> None:
    shutil.copytree(whole.out, tmp_path, dirs_exist_ok=True)
    options = arguments(data, tmp_path)
    config = tmp_path / "inference/stack/config.yaml"
    text = config.read_text()
    assert "  total_iters: 10 " in text
    edited = text.replace("  total_iters: 10 ", "  total_iters: 6 ")
    config.write_text(edited)
    finished = command("segment", *options)
    assert finished.code == 0, finished.err
    assert "config.yaml, as you edited it" in finished.out
    assert "adapt: anew, as there are changes (TRAIN.total_iters: was 10, is 6)" in finished.out
    assert config.read_text() == edited
    assert json.loads((tmp_path / "inference/stack/summary.json").read_text())["iteration"] == 6
    refused = command("segment", *options, "--pixel-size", 9)
    assert refused.code == 2
    assert "edited, but the call that wrote it had other options (--pixel-size)" in refused.err
    config.write_text(edited.replace("total_iters: 6", "total_itres: 6"))
    wrong = command("segment", *options)
    assert wrong.code == 2
    assert "config.yaml: TRAIN.total_itres: unknown key; the nearest is" in wrong.err


def test_a_model_that_is_gone_is_trained_again(command, data, whole, tmp_path) -> None:
    shutil.copytree(whole.out, tmp_path, dirs_exist_ok=True)
    model = tmp_path / "models/stack/model.ckpt"
    model.unlink()
    finished = command("segment", *arguments(data, tmp_path))
    assert finished.code == 0, finished.err
    assert filecmp.cmp(model, whole.out / "models/stack/model.ckpt", shallow=False)


def test_quick_takes_the_shipped_model_of_many_volumes(segment, data, tmp_path) -> None:
    volume = tmp_path / "my stack.ome.tif"
    images = np.stack([open_volume(data / "stack").section(k) for k in range(SHAPE[0])])
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 0.008,
        "PhysicalSizeY": 0.008,
        "PhysicalSizeZ": 0.04,
    }
    tifffile.imwrite(volume, images, ome=True, metadata=metadata)
    finished = segment(volume, "--quick", *settings("TEST.precision=float32"))
    assert finished.code == 0, finished.err
    assert "model: generalist_small, shipped, of 4 labelled volumes" in finished.out
    assert "worth: F1 84.6 % on SNEMI3D/stack (its card)" in finished.out
    assert "adapt" not in finished.out.replace("adapted", "").replace("adapts", "")
    folder = tmp_path / "inference/my stack-quick"
    written = {f"{name}.ome.tif" for name in ("masks", "probability", "instances")}
    assert content(folder) == LEFT | written
    masks = open_volume(folder / "masks.ome.tif")
    assert (masks.shape, masks.voxel_size) == (SHAPE, (40, 8, 8))
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(("spacing", "average"), [(5, 50), (40, None)])
def test_quick_averages_thin_sections(
    segment, data: Path, tmp_path: Path, spacing: float, average: float | None
) -> None:
    sizes = ("--pixel-size", 8, "--section-spacing", spacing)
    finished = segment(data / "stack", *sizes, "--quick", *settings("TEST.precision=float32"))
    assert finished.code == 0, finished.err
    text = (tmp_path / "inference/stack-quick/config.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["TEST"].get("z_average") == average


def test_a_box_is_segmented_alone(segment, data: Path, tmp_path: Path) -> None:
    box = "[1:3,16:,:64]"
    labels = ("--labels", f"{data / 'stack_groundtruth'}{box}")
    fast = settings("TEST.precision=float32")
    options = (*SIZES, *labels, "--quick", *fast)
    finished = segment(f"{data / 'stack'}{box}", *options)
    assert finished.code == 0, finished.err
    assert "scores: " in finished.out
    name = "stack-1-3-16-64-quick"
    masks = open_volume(tmp_path / f"inference/{name}/masks")
    assert masks.shape == (2, 80, 64)
    assert masks.names == open_volume(data / "stack").names[1:3]
    assert segment(f"{data / 'stack'}{box}", *options, "--format", "ome-zarr").code == 0
    attributes = json.loads((tmp_path / f"inference/{name}/masks.ome.zarr/.zattrs").read_text())
    placed = attributes["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    assert placed[1] == {"type": "translation", "translation": [40.0, 128.0, 0.0]}


def test_quick_of_a_single_picture(segment, data: Path, tmp_path: Path) -> None:
    picture = sorted((data / "stack").iterdir())[0]
    refused = segment(picture, "--pixel-size", 8)
    assert refused.code == 2
    assert "one section cannot be adapted to" in refused.err
    finished = segment(picture, "--pixel-size", 5, "--quick", *settings("TEST.precision=float32"))
    assert finished.code == 0, finished.err
    assert "(image)\n  1 section of 96 x 112, uint8" in finished.out
    assert "model: generalist_small" in finished.out
    masks = tmp_path / "inference" / f"{picture.stem}-quick" / "masks"
    assert cv2.imread(str(masks / picture.name), cv2.IMREAD_GRAYSCALE).shape == SHAPE[1:]


def test_shipped_models_are_told_apart_by_their_voxel_size(monkeypatch) -> None:
    models = shipped_models()
    assert {model.name: model.f1 for model in models} == {
        "generalist_small": 84.6,
        "vnc2fafb_small_plus": 82.7,
        "vnc2lucchi1_small_plus": None,
        "vnc2lucchi2_small_plus": 91.9,
        "vnclucchi2fafb_small_plus": 82.0,
        "vnclucchi2snemi3d_small_plus": 89.6,
        "vnclucchi2trakem2_small_plus": 90.8,
    }
    assert quick_model(VoxelSize(6, 6, 6)).name == "generalist_small"
    adapted = [model for model in models if not model.general]
    assert len(adapted) == 6
    monkeypatch.setattr("prediction.shipped.shipped_models", lambda: adapted)
    assert quick_model(VoxelSize(6, 6, 6)).name == "vnc2lucchi2_small_plus"
    assert quick_model(VoxelSize(30, 6, 6)).name == "vnclucchi2snemi3d_small_plus"
    assert quick_model(VoxelSize(None, 9, 9)).name == "vnc2fafb_small_plus"


def test_preview_works_on_a_crop_from_the_middle(segment, data: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 120, 130), np.uint8)
    write_sections(tmp_path / "large", images)
    labels = ("--labels", tmp_path / "large")
    finished = segment(tmp_path / "large", *SIZES, "--preview", *labels, *settings(*SMALL))
    assert finished.code == 0, finished.err
    assert "  without --preview: about " in finished.out
    assert " of 2,100 iterations\n" in finished.out
    folder = tmp_path / "inference/large-preview"
    crop = open_volume(folder / "crop")
    first = [(whole - part) // 2 for whole, part in zip(images.shape, crop.shape, strict=True)]
    box = tuple(slice(a, a + n) for a, n in zip(first, crop.shape, strict=True))
    assert np.array_equal([crop.section(k) for k in range(len(crop))], images[box])
    assert open_volume(folder / "crop_labels").shape == crop.shape
    assert open_volume(folder / "masks").shape == crop.shape
    write_sections(tmp_path / "large", 255 - images)
    changed = segment(tmp_path / "large", *SIZES, "--preview", *labels, "--set", "A.b=1")
    assert "config: written anew (--set, the content of VOLUME changed)" in changed.out


def test_of_published_sources_thick_sections_get_one_of_each_set(
    segment, data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    for name in ("VNC3/training", "Lucchi/training", "Lucchi/testing"):
        for end in ("", "_groundtruth"):
            shutil.copytree(data / f"VNC3/training{end}", root / f"{name}{end}")
    thin, thick = ["Lucchi/training"], ["VNC3/training", "Lucchi/training"]
    for number, (spacing, chosen) in enumerate(((5, thin), (45, thick))):
        options = ("--pixel-size", 5, "--section-spacing", spacing, "--data", root)
        finished = segment(data / "stack", *options, "--run-name", f"run{number}", "--set", "A.b=1")
        assert finished.code == 2  # after the sources are chosen
        lines = [line for line in finished.out.splitlines() if line.startswith("source: ")]
        found = [line.removesuffix(" (folder)").split("data/")[-1] for line in lines]
        assert found == chosen


def test_all_sources_that_are_given_are_used(segment, data: Path, tmp_path: Path) -> None:
    pair = (data / "VNC3/training", data / "VNC3/training_groundtruth")
    for name in ("one", "two"):
        for path, end in zip(pair, ("", "_labels"), strict=True):
            shutil.copytree(path, tmp_path / f"{name}{end}")
    sources = [
        ("--source", tmp_path / name, tmp_path / f"{name}_labels") for name in ("one", "two")
    ]
    sizes = [("--pixel-size-source", 7, "--section-spacing-source", 80)] * 2
    options = [option for each in (*sources, *sizes) for option in each]
    finished = segment(data / "stack", *SIZES, *options, *settings(*SMALL, "TRAIN.total_iters=5"))
    assert finished.code == 0, finished.err
    config = yaml.safe_load((tmp_path / "inference/stack/config.yaml").read_text())
    assert [Path(entry["data_dir_img"]).name for entry in config["DATA"]["sources"]] == [
        "one",
        "two",
    ]
    again = segment(data / "stack", *SIZES, *options, *settings(*SMALL, "TRAIN.total_iters=5"))
    assert "adapt: kept from an earlier call" in again.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            (),
            "the file gives no pixel size; add --pixel-size NM (in the plane of the sections) and",
        ),
        (("--pixel-size", 8), "the file gives no spacing; add --section-spacing NM"),
        (("--pixel-size", -8), "--pixel-size: found -8.0, expected nanometres above 0"),
        ((*SIZES, "--quick", "--preview"), "--quick and --preview: found both"),
        ((*SIZES, "--quick", "--size", "full"), "--size: has no effect with --quick"),
        ((*SIZES, "--set", "TRAIN.nothing=1"), "--set TRAIN.nothing=1: TRAIN.nothing: unknown key"),
        ((*SIZES, "--set", "NAME=x"), "--set NAME=x: expected --run-name"),
        (
            (*SIZES, "--run-name", "a/b"),
            "--run-name a/b: found 'a/b', expected the name of a folder",
        ),
        ((*SIZES, "--source", "stack_groundtruth", "nothing"), "--pixel-size-source NM"),
        ((*SIZES, "--pixel-size-source", 4), "given 1 times, expected once for each --source (0)"),
        ((*SIZES, "--labels", "nothing"), "nothing: not found"),
    ],
)
def test_mistakes_are_named_in_one_line(segment, data, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(data)
    finished = segment(Path("stack"), *options)
    assert finished.code == 2
    assert finished.err.startswith("error: ")
    assert finished.err.count("\n") == 1
    assert message in finished.err
    assert not (tmp_path / "models").exists()
    assert not list(tmp_path.rglob("config.yaml*"))


def test_without_a_source_it_says_how_to_fetch_one(segment, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    finished = segment(data / "stack", *SIZES, "--data", tmp_path / "empty")
    assert finished.code == 2
    assert "python scripts/prepare_data.py vnc --download" in finished.err


def test_what_others_have_written_is_kept(segment, data: Path, tmp_path: Path) -> None:
    (tmp_path / "models/stack").mkdir(parents=True)
    (tmp_path / "models/stack/model.ckpt").write_bytes(b"mine")
    finished = segment(data / "stack", *SIZES, *settings(*SMALL))
    assert finished.code == 2
    assert "of another run; give --run-name NAME to keep it, or --overwrite" in finished.err
    assert (tmp_path / "models/stack/model.ckpt").read_bytes() == b"mine"
    overwritten = segment(data / "stack", *SIZES, "--overwrite", *settings(*SMALL))
    assert overwritten.code == 0, overwritten.err
