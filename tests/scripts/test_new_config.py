"""From volumes to a config: what is found, warned of, proposed, and that it runs."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import yaml

from dataloader.formats.opening import open_volume
from dataloader.inspection import inspect_images, inspect_labels, sampled
from dataloader.synthetic import make_volume, write_sections
from dataloader.volume import DerivedVolume, Volume
from tests.projects import Finished
from utils.paths import CONFIG_DIR

pytestmark = pytest.mark.auto_precision

SHAPE = (8, 96, 112)


@pytest.fixture(scope="module")
def tissue() -> tuple[np.ndarray, np.ndarray]:
    """Sections and masks, uint8."""
    return make_volume(4, SHAPE)


def write(path: Path, volume: np.ndarray) -> Path:
    with h5py.File(path, "w") as file:
        file["main"] = volume
    return path


def warnings(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> list[str]:
    raw = open_volume(write(tmp_path / "i.h5", images))
    masks = open_volume(write(tmp_path / "l.h5", labels), masks=True)
    return inspect_images(raw).warnings() + inspect_labels(raw, masks).warnings()


def test_sound_volumes_raise_no_warnings(tmp_path: Path, tissue) -> None:
    assert warnings(tmp_path, *tissue) == []


@pytest.mark.parametrize("shift", [-1, 1])
def test_shifted_labels_are_noticed(tmp_path: Path, tissue, shift: int) -> None:
    images, labels = tissue
    cut = (images[1:], labels[:-1]) if shift == 1 else (images[:-1], labels[1:])
    (line,) = warnings(tmp_path, *cut)
    assert f"labels seem to be shifted: they fit the images {-shift:+d} sections on" in line


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_flipped_labels_are_noticed(tmp_path: Path, tissue, axes: tuple) -> None:
    images, labels = tissue
    assert "the labels seem to be flipped or rotated against the images" in warnings(
        tmp_path, images, np.flip(labels, axes)
    )


def test_blank_repeated_and_misplaced_sections_are_noticed(tmp_path: Path, tissue) -> None:
    images, labels = tissue
    blank = images.copy()
    blank[2] = 7
    assert "section 2 (counted from 0): one grey value throughout" in warnings(
        tmp_path, blank, labels
    )
    repeated = images.copy()
    repeated[5] = repeated[4]
    assert any("section 5 (counted" in line and "the same" in line
               for line in warnings(tmp_path, repeated, labels))  # fmt: skip
    swapped = [0, 1, 2, 4, 3, 5, 6, 7]
    lines = warnings(tmp_path, images[swapped], labels[swapped])
    assert any("3, 4" in line and "out of order" in line for line in lines)


class Counted(DerivedVolume):
    """Another volume, and which of its sections were read whole."""

    def __init__(self, volume: Volume) -> None:
        super().__init__(volume, volume.shape)
        self.read: list[int] = []

    def section(self, index: int) -> np.ndarray:
        self.read.append(index)
        return self.volume.section(index)

    def crop(self, index: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.volume.crop(index, y, x, height, width)


@pytest.mark.parametrize(("sample", "looked_at"), [(16, 16), (256, 60)])
def test_no_more_sections_are_read_than_are_looked_at(tmp_path, tissue, sample, looked_at) -> None:
    images, labels = (np.tile(part, (8, 1, 1))[:60] for part in tissue)
    raw = Counted(open_volume(write(tmp_path / "i.h5", images), keep=False))
    masks = Counted(open_volume(write(tmp_path / "l.h5", labels), masks=True, keep=False))
    inspect_images(raw, sample)
    inspect_labels(raw, masks, sample)
    for volume in (raw, masks):
        assert len(volume.read) == len(set(volume.read)) == looked_at
    assert set(raw.read) == set(sampled(60, sample))
    assert {0, 1, 2, 3, 56, 57, 58, 59} <= set(raw.read)


def test_labels_of_few_sections_are_found_though_a_sample_lacks_them(tmp_path, tissue) -> None:
    images, labels = (np.tile(part, (8, 1, 1))[:60] for part in tissue)
    labels[sampled(60, 16)] = 0
    raw = open_volume(write(tmp_path / "i.h5", images))
    found = inspect_labels(raw, open_volume(write(tmp_path / "l.h5", labels), masks=True), 16)
    assert found.fraction == pytest.approx((labels > 0).mean())
    assert set(sampled(60, 16)) <= set(found.empty)


def test_a_start_looks_at_sixteen_sections(command, tmp_path: Path) -> None:
    images, labels = make_volume(4, (60, 48, 48))
    looked_at = sampled(60, 16)
    others = np.setdiff1d(np.arange(60), looked_at)
    blank, empty = images.copy(), labels.copy()
    blank[others], empty[others] = 7, 0
    for name, volume in (("source", blank), ("labels", empty), ("target", blank)):
        write(tmp_path / f"{name}.h5", volume)
    config = {
        "NAME": "tiny",
        "MODEL": {"width": 2},
        "TRAIN": {"total_iters": 1, "num_workers": 0, "precision": "float32"},
        "DATA": {
            "data_dir_img": "source.h5",
            "data_dir_label": "labels.h5",
            "data_dir_target": "target.h5",
            "input_size": 32,
        },
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    places = ("--data", tmp_path, "--out", tmp_path, "--device", "cpu")
    finished = command("main", "-c", tmp_path / "tiny.yaml", *places)
    assert finished.code == 0, finished.err
    assert "one grey value" not in finished.err
    assert "no mitochondria in the labels" not in finished.err


def test_amount_of_labels_is_judged(tmp_path: Path, tissue) -> None:
    images, labels = tissue
    few = np.zeros_like(labels)
    few[:, 40:44, 40:44] = 255
    few[3] = 0
    lines = warnings(tmp_path, images, few)
    assert any(line.startswith("0.1") and "are mitochondria" in line for line in lines)
    assert any(line.startswith("section 3 (counted") and "no mitochondria" in line
               for line in lines)  # fmt: skip


@pytest.fixture
def volumes(tmp_path: Path, tissue) -> Path:
    """A source of PNG sections, a target as ImageJ TIFF of 8 nm, in a folder with a hard name."""
    root = tmp_path / "my völumes: 1"
    write_sections(root / "raw", tissue[0])
    write_sections(root / "labels", tissue[1])
    metadata = {"axes": "ZYX", "spacing": 40.0, "unit": "nm"}
    tifffile.imwrite(
        root / "target.tif", tissue[0], imagej=True, resolution=(1 / 8, 1 / 8), metadata=metadata
    )
    return root


def ask(command, root: Path, *options: object, labels: str = "labels") -> Finished:
    return command(
        "new_config", "--source", root / "raw", root / labels, "--target", root / "target.tif",
        "-o", root / "mine.yaml", *options,
    )  # fmt: skip


def check(command, root: Path) -> str:
    """Try the config that was written; what that prints."""
    run = command(
        "main", "-c", root / "mine.yaml", "--out", root, "--check",
        "--data", root, "--set", "MODEL.width=2",
    )  # fmt: skip
    assert run.code == 0, run.err
    return run.out


def test_the_config_runs(command, volumes: Path) -> None:
    options = ("--pixel-size-source", 4, "--section-spacing-source", 80)
    finished = ask(command, volumes, *options, "--size", "small", "--target-labels",
                   volumes / "labels")  # fmt: skip
    assert finished.code == 0, finished.err
    found = ["8 sections of 96 x 112, uint8", "pixel: 8 nm; spacing of sections: 40 nm"]
    for part in [*found, "(tiff)", "labels: ", "% mitochondria"]:
        assert part in finished.out
    config = yaml.safe_load((volumes / "mine.yaml").read_text(encoding="utf-8"))
    assert config["DATA"]["data_dir_target"] == str(volumes / "target.tif")
    assert config["DATA"]["source_stride"] == 1
    assert config["DATA"]["target_stride"] == 2  # 80 nm
    assert config["DATA"]["pixel_size_working"] == 10
    assert config["DATA"]["section_spacing_target"] == 40
    assert config["DATA"]["input_size"] == [32, 32]  # 96 pixels of 4 nm are 38 of 10 nm
    sheet = cv2.imread(str(volumes / "mine.png"))
    assert sheet.shape[0] > 512
    assert ((sheet[..., 2] == 255) & (sheet[..., 1] == 0)).any()  # red: BGR
    assert "pixel size: source 4 nm, target 8 nm; resampled to 10 nm" in check(command, volumes)


@pytest.mark.parametrize(
    ("source", "target", "z_average", "like"),
    [
        (130, 40, 130, "mitoh2r_plus"),
        (80, 40, None, "mitoh2r_plus"),
        (20, 20, None, "vnc2lucchi2_small_plus"),
    ],
)
def test_the_config_that_goes_beyond_the_paper_runs(
    command, volumes: Path, source: float, target: float, z_average: float | None, like: str
) -> None:
    options = ("--section-spacing-source", source, "--section-spacing-target", target)
    options = ("--pixel-size-source", 4, *options)
    finished = ask(command, volumes, *options, "--size", "small", "--plus")
    assert finished.code == 0, finished.err
    config = yaml.safe_load((volumes / "mine.yaml").read_text(encoding="utf-8"))
    like, shipped = (
        yaml.safe_load((CONFIG_DIR / f"{name}.yaml").read_text("utf-8"))
        for name in (like, "vnc2lucchi2_small_plus")
    )
    assert config["BEYOND"] == like["BEYOND"]
    thick = "label_threshold" in like["BEYOND"]
    assert config["TRAIN"]["total_iters"] == (2100 if thick else 1500)
    shared = set(config["TRAIN"]) & set(shipped["TRAIN"]) - {
        "show_freq",
        "save_freq",
        "valid_freq",
        "total_iters",
    }
    assert len(shared) >= 6
    assert {k: config["TRAIN"][k] for k in shared} == {k: shipped["TRAIN"][k] for k in shared}
    assert config["TEST"].get("z_average") == z_average
    assert "orthoplane" not in config["TEST"]
    assert "target labelled after 1" in check(command, volumes)


def test_two_sources(command, volumes: Path, tissue) -> None:
    write_sections(volumes / "more", np.tile(tissue[0], (1, 2, 2)))
    write_sections(volumes / "more_labels", np.tile(tissue[1], (1, 2, 2)))
    options = [
        *("--source", volumes / "more", volumes / "more_labels", "--size", "small"),
        *("--pixel-size-source", 4, "--section-spacing-source", 40, "--section-spacing-source", 80),
    ]
    once = ask(command, volumes, *options)
    assert once.code == 2
    assert "--pixel-size-source: given 1 times, expected once for each --source (2)" in once.err
    finished = ask(command, volumes, *options, "--pixel-size-source", 12)
    assert finished.code == 0, finished.err
    data = yaml.safe_load((volumes / "mine.yaml").read_text(encoding="utf-8"))["DATA"]
    first, second = data["sources"]
    assert first["data_dir_img"] == str(volumes / "raw")
    assert second["data_dir_label"] == str(volumes / "more_labels")
    assert [entry["pixel_size_source"] for entry in (first, second)] == [4, 12]
    # 80 nm everywhere
    assert [first["source_stride"], second["source_stride"], data["target_stride"]] == [2, 1, 2]
    assert data["pixel_size_working"] == 12
    printed = check(command, volumes)
    assert "pixel size: source 1 4 nm, source 2 12 nm, target 8 nm; resampled to 12" in printed


def test_a_target_without_labels_and_sizes(command, volumes: Path) -> None:
    finished = ask(command, volumes, "--size", "full")
    assert finished.code == 0, finished.err
    assert "unknown (see the options)" in finished.out
    config = yaml.safe_load((volumes / "mine.yaml").read_text(encoding="utf-8"))
    assert config["DATA"]["data_dir_val_label"] is None
    assert config["DATA"]["pixel_size_working"] is None
    assert config["MODEL"]["width"] == 64
    assert config["DATA"]["input_size"] == [96, 96]
    assert config["DATA"]["source_stride"] == config["DATA"]["target_stride"] == 1  # as alike


def test_mistakes_are_named_and_nothing_is_written(command, volumes: Path, tissue) -> None:
    write_sections(volumes / "short", tissue[1][:5])
    write_sections(volumes / "empty", np.zeros_like(tissue[1]))
    for labels, message in (("short", "do not fit"), ("empty", "all labels are background"),
                            ("none", "none: not found")):  # fmt: skip
        finished = ask(command, volumes, labels=labels)
        assert finished.code == 2
        assert message in finished.err.splitlines()[-1]
    swapped = command(
        "new_config", "--source", volumes / "labels", volumes / "raw", "--target",
        volumes / "target.tif", "-o", volumes / "mine.yaml",
    )  # fmt: skip
    assert swapped.code == 2
    assert "look swapped" in swapped.err
    assert ask(command, volumes, "--pixel-size-source", -4).code == 2
    assert not (volumes / "mine.yaml").exists()
    (volumes / "mine.yaml").write_text("mine")
    assert "exists already; --overwrite" in ask(command, volumes).err
    assert (volumes / "mine.yaml").read_text() == "mine"
