"""A prediction that goes on, or is made again, when its volume or its settings have changed."""

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import torch
import yaml
import zarr

from dataloader.formats.opening import open_volume
from model.checkpoint import Checkpoint, save_checkpoint
from model.segmentor import Segmentor
from prediction.inference import Inference, Request, open_inference
from prediction.instances.table import Mitochondrion
from prediction.predict import predict
from prediction.predictor import PairPredictor
from prediction.run import Wanted, run
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace
from utils.runtime.signals import Interrupted

SECTIONS, SIDE = 6, 48
CONFIG = {
    "NAME": "tiny",
    "DATA": {
        "data_dir_img": "folder",
        "data_dir_label": "folder",
        "data_dir_target": "folder",
        "data_dir_val": "folder",
        "section_spacing_target": 10,
        "pixel_size_target": 10,
    },
    "TEST": {"padded_size": 64, "precision": "float32", "windows": "section"},
}


class Stopped:
    """A predictor during which the process is asked to end, after some pairs."""

    def __init__(self, predict: PairPredictor, pairs: int) -> None:
        self.predict, self.encode, self.left = predict, predict.encode, pairs
        self.device = predict.device

    def decode(self, current, auxiliary) -> torch.Tensor:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.predict.decode(current, auxiliary)


class Place:
    """A volume in several formats, a list of its sections, a checkpoint and an output folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.lines = root, []
        sections = noise(0)
        (root / "folder").mkdir()
        for index in range(SECTIONS + 1):
            self.write(index, sections[index])
        self.list(range(SECTIONS))
        zarr.create_array(root / "v.zarr", data=sections[:SECTIONS], chunks=(1, 24, 48))
        self.checkpoint(1)
        (root / "tiny.yaml").write_text(yaml.safe_dump(CONFIG))

    def write(self, index: int, section: np.ndarray) -> None:
        """A section of the folder, of as many bytes whatever it shows."""
        tifffile.imwrite(self.root / f"folder/{index}.tif", section)

    def list(self, sections) -> None:
        (self.root / "list.txt").write_text("".join(f"{index}.tif\n" for index in sections))

    def checkpoint(self, seed: int) -> None:
        folder = self.root / "models/tiny"
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(seed)
        save_checkpoint(folder / "model.ckpt", Checkpoint(Segmentor(2).state_dict(), 1))

    def inference(
        self, *sets: str, out: str = "out", output_format: str | None = None
    ) -> Inference:
        config = load_config(str(self.root / "tiny.yaml"), list(sets), CONFIG_DIR).config
        train = config.TRAIN.model_copy(update={"save_path": self.root / "models"})
        config = config.model_copy(update={"TRAIN": train})
        place = Workspace(self.root, self.root / out)
        request, device = Request("tiny", output_format=output_format), torch.device("cpu")
        return open_inference(config, place, request, device, say=self.lines.append)

    def interrupt(self, *sets: str, pairs: int = 4, **options) -> None:
        """Start to predict; of a volume of six sections, some are done."""
        inference = self.inference(*sets, **options)
        stopped = Stopped(inference.predictor, pairs)
        with pytest.raises(Interrupted):
            predict(replace(inference, predictor=stopped), again=True)
        self.lines.clear()

    def predict(self, *sets: str, out: str = "out", **options) -> np.ndarray:
        inference = self.inference(*sets, out=out, **options)
        predict(inference)
        with h5py.File(inference.predictions) as file:
            return file["main"][()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def noise(seed: int) -> np.ndarray:
    shape = (SECTIONS + 1, SIDE, SIDE)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


FOLDER = ("DATA.data_list_val=list.txt",)
ZARR = ("DATA.data_dir_val=v.zarr",)
JOINED = (*FOLDER, "TEST.orthoplane=true")


def overwrite_section(place: Place) -> None:
    place.write(4, noise(1)[4])


def overwrite_and_keep_the_folder_s_time(place: Place) -> None:
    """By another file of the same name, size and folder."""
    status = (place.root / "folder").stat()
    overwrite_section(place)
    os.utime(place.root / "folder", ns=(status.st_atime_ns, status.st_mtime_ns))


def change_chunk(place: Place) -> None:
    zarr.open_array(place.root / "v.zarr", mode="r+")[4, 30, 5] += 1


def change_metadata(place: Place) -> None:
    zarr.open_array(place.root / "v.zarr", mode="r+").attrs["resolution"] = [30, 10, 10]


CHANGES = {
    "a section": (FOLDER, overwrite_section, "files"),
    "a section, the folder's time as before": (
        FOLDER, overwrite_and_keep_the_folder_s_time, "files",
    ),
    "the list": (FOLDER, lambda place: place.list([0, 6, 2, 3, 4, 5]), "files"),
    "the list's order": (FOLDER, lambda place: place.list([0, 1, 3, 2, 4, 5]), "files"),
    "a chunk": (ZARR, change_chunk, "files"),
    "the metadata": (ZARR, change_metadata, "files"),
    "the checkpoint": (FOLDER, lambda place: place.checkpoint(2), "weights"),
    "a section, seen from three sides": (JOINED, overwrite_section, "files"),
}  # fmt: skip


@pytest.mark.parametrize(("sets", "change", "said"), CHANGES.values(), ids=CHANGES)
def test_what_was_predicted_of_other_files_does_not_count(
    place: Place, sets: tuple[str, ...], change: Callable[[Place], None], said: str
) -> None:
    place.interrupt(*sets)
    change(place)
    found = place.predict(*sets)
    np.testing.assert_array_equal(found, place.predict(*sets, out="fresh"))
    anew = [line for line in place.lines if "predicting anew" in line]
    assert len(anew) == 1
    assert f"({said} changed)" in anew[0]
    assert not any("predicted already" in line for line in place.lines)


SETTINGS = {
    "flips": ("TEST.flips=true", "flips"),
    "batch": ("TEST.batch_size=2", "batch_size"),
    "windows": ("TEST.padded_size=80", "windows"),
    "stride": ("DATA.target_stride=2", "windows"),
    "working pixels": ("DATA.pixel_size_working=12", "shape, windows"),
    "precision": ("TEST.precision=bfloat16", "precision"),
    "spacing": ("DATA.section_spacing_target=12", "voxel_size"),  # preds.hdf tells it
}


@pytest.mark.parametrize(("setting", "said"), SETTINGS.values(), ids=SETTINGS)
def test_what_was_predicted_with_other_settings_does_not_count(
    place: Place, setting: str, said: str
) -> None:
    place.interrupt(*FOLDER)
    found = place.predict(*FOLDER, setting)
    assert [f"({said} changed)" in line for line in place.lines] == [True]
    np.testing.assert_array_equal(found, place.predict(*FOLDER, setting, out="fresh"))
    if said == "voxel_size":
        voxel_size = open_volume(place.root / "out/inference/tiny/preds.hdf").voxel_size
        assert tuple(voxel_size) == (12, 10, 10)


@pytest.mark.parametrize("sets", [FOLDER, ZARR, JOINED], ids=["folder", "zarr", "planes"])
def test_what_has_not_changed_goes_on(place: Place, sets: tuple[str, ...]) -> None:
    place.interrupt(*sets)
    found = place.predict(*sets)
    assert re.match(r"[1-5] of 6 (xy )?sections are predicted already", place.lines[0])
    np.testing.assert_array_equal(found, place.predict(*sets, out="fresh"))


def test_predictions_of_an_earlier_format_are_begun_anew(place: Place) -> None:
    place.interrupt(*FOLDER)
    (place.root / "out/inference/tiny/preds.hdf.part/fingerprint.json").rename(
        place.root / "out/inference/tiny/preds.hdf.part/origin.json"
    )
    found = place.predict(*FOLDER)
    assert "(format changed): predicting anew" in place.lines[0]
    np.testing.assert_array_equal(found, place.predict(*FOLDER, out="fresh"))


# Finished predictions


class Refusing:
    """A predictor that must not be asked."""

    device = torch.device("cpu")

    def encode(self, sections) -> None:
        raise ZeroDivisionError("predicted")

    decode = encode


def identity(path: Path) -> tuple[int, int]:
    """Changes when a file is written or replaced."""
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def unpredictable(inference: Inference) -> Inference:
    return replace(inference, predictor=Refusing())


@pytest.mark.parametrize("sets", [FOLDER, ZARR, JOINED], ids=["folder", "zarr", "slices"])
def test_a_finished_prediction_is_not_made_again(place: Place, sets: tuple[str, ...]) -> None:
    found = place.predict(*sets)
    again = place.inference(*sets, output_format="ome-zarr")
    before = identity(again.predictions)
    run(unpredictable(again), Wanted(pictures=True, objects=True))
    assert identity(again.predictions) == before
    assert sum("not predicted again" in line for line in place.lines) == 1
    assert {"masks.ome.zarr", "instances.ome.zarr", "seg_img", "scores.csv"} <= left(place)
    masks = open_volume(place.root / "out/inference/tiny/masks.ome.zarr")
    np.testing.assert_array_equal(masks.section(2), 255 * (found[2] >= 0.5))
    with pytest.raises(ZeroDivisionError, match="predicted"):
        predict(unpredictable(place.inference(*sets)), again=True)


def test_a_finished_prediction_of_another_volume_or_model_is_made_again(place: Place) -> None:
    place.predict(*FOLDER)
    overwrite_section(place)
    place.checkpoint(2)
    found = place.predict(*FOLDER)
    assert place.lines[0].startswith("preds.hdf is not kept (weights, files changed)")
    np.testing.assert_array_equal(found, place.predict(*FOLDER, out="fresh"))


@pytest.mark.parametrize("setting", ["TEST.z_average=30", "TEST.orthoplane=true"])
def test_a_finished_prediction_averaged_otherwise_is_made_again(place: Place, setting: str) -> None:
    said = setting.removeprefix("TEST.").split("=")[0]
    place.predict(*FOLDER)
    for sets in ((*FOLDER, setting), FOLDER):  # on and off again
        place.lines.clear()
        found = place.predict(*sets)
        assert place.lines[0] == f"preds.hdf is not kept ({said} changed): predicting anew"
        np.testing.assert_array_equal(found, place.predict(*sets, out="fresh"))


@pytest.mark.parametrize("content", [b"", b"not HDF5"])
def test_a_broken_prediction_is_made_again(place: Place, content: bytes) -> None:
    found = place.predict(*FOLDER)
    (place.root / "out/inference/tiny/preds.hdf").write_bytes(content)
    np.testing.assert_array_equal(place.predict(*FOLDER), found)


# Fingerprints


def test_fingerprint_of_a_zarr_array_alone(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    for name in ("raw", "labels"):
        group.create_array(name, data=noise(0), chunks=(1, 24, 24))
    volume = open_volume(tmp_path / "s.zarr:raw", keep=False)
    before = volume.fingerprint()
    group["labels"][3] = 0
    assert volume.fingerprint() == before
    group["raw"][3, 5, 5] += 1
    after = volume.fingerprint()
    assert after != before
    (tmp_path / "s.zarr/raw/3.1.1").unlink()
    assert volume.fingerprint() != after


@pytest.mark.parametrize("place", ["s.zarr", "s.zarr/0", "s.zarr:0"])
def test_fingerprint_of_an_image_whose_voxel_size_is_changed(tmp_path: Path, place: str) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w", zarr_format=2)
    group.create_array("0", data=noise(0))

    def describe(step: float) -> None:
        scale = [{"type": "scale", "scale": [30, step, step]}]
        axes = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
        levels = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": levels}]

    describe(8)
    volume = open_volume(tmp_path / place, keep=False)
    assert tuple(volume.voxel_size) == (30, 8, 8)
    before = volume.fingerprint()
    describe(4.6)
    assert volume.fingerprint() != before


def test_fingerprint_of_a_volume_that_has_moved(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("1.png", "2.png"):
        cv2.imwrite(str(tmp_path / "a" / name), noise(0)[0])
    before = open_volume(tmp_path / "a").fingerprint()
    (tmp_path / "a").rename(tmp_path / "b")
    assert open_volume(tmp_path / "b").fingerprint() == before
    assert open_volume(tmp_path / "b", scale=0.5, keep=False).fingerprint() == before
    (tmp_path / "b/notes.txt").write_text("no section")
    assert open_volume(tmp_path / "b").fingerprint() == before
    (tmp_path / "b/2.png").rename(tmp_path / "b/3.png")
    assert open_volume(tmp_path / "b").fingerprint() != before


@pytest.mark.parametrize("kind", ["virtual", "external", "link"])
def test_fingerprint_of_an_array_in_other_hdf5_files(tmp_path: Path, kind: str) -> None:
    (tmp_path / "parts").mkdir()
    part, path = tmp_path / "parts/part.bin", tmp_path / "v.h5"
    volume = noise(0)
    if kind == "external":
        volume.tofile(part)
    else:
        with h5py.File(part, "w") as file:
            file["main"] = volume
    with h5py.File(path, "w") as file:
        if kind == "virtual":
            layout = h5py.VirtualLayout(volume.shape, volume.dtype)
            layout[:] = h5py.VirtualSource("parts/part.bin", "main", volume.shape)
            file.create_virtual_dataset("main", layout)
        elif kind == "external":
            file.create_dataset("main", volume.shape, volume.dtype, external=str(part))
        else:
            file["main"] = h5py.ExternalLink("parts/part.bin", "main")
    opened = open_volume(tmp_path / "v.h5:main", keep=False)
    np.testing.assert_array_equal(opened.section(3), volume[3])
    before = opened.fingerprint()
    assert opened.fingerprint() == before
    os.utime(part, ns=(1, 1))
    assert opened.fingerprint() != before


def test_fingerprint_of_an_ome_tiff_of_several_files(tmp_path: Path) -> None:
    names, uuids = ["a.ome.tif", "b.ome.tif"], ["urn:uuid:a", "urn:uuid:b"]
    planes = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1">'
        f'<UUID FileName="{name}">{uuid}</UUID></TiffData>'
        for z, (name, uuid) in enumerate(zip(names, uuids, strict=True))
    )
    for section, name, uuid in zip(noise(0), names, uuids, strict=False):
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
            f'UUID="{uuid}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            f'Type="uint8" SizeX="{SIDE}" SizeY="{SIDE}" SizeZ="2" SizeC="1" SizeT="1">'
            f"{planes}</Pixels></Image></OME>"
        )
        tifffile.imwrite(tmp_path / name, section, description=xml, metadata=None)
    volume = open_volume(tmp_path / "a.ome.tif", keep=False)
    assert volume.shape == (2, SIDE, SIDE)
    before = volume.fingerprint()
    os.utime(tmp_path / "b.ome.tif", ns=(1, 1))
    assert volume.fingerprint() != before


# What an earlier prediction left


def left(place: Place) -> set[str]:
    folder = place.root / "out/inference/tiny"
    return {path.name for path in folder.iterdir()} - {".lock"}


def everything(place: Place, *sets: str, **options) -> None:
    """A whole inference with all its outputs."""
    inference = place.inference(*sets, **options)
    run(inference, Wanted(pictures=True, objects=True, report=True))


LABELLED = (*FOLDER, "DATA.data_dir_val_label=folder")
ALWAYS = {"preds.hdf", "scores.csv", "scores.txt", "summary.json"}


def test_outputs_of_another_volume_go(place: Place) -> None:
    everything(place, *LABELLED)
    everything(place, *LABELLED, output_format="ome-zarr")
    folder, kept = place.root / "out/inference/tiny", {"notes.txt", "masks.tif", "my_masks"}
    (folder / "my_masks").mkdir()
    for name in ("notes.txt", "masks.tif", "masks/mine.txt", "seg_img/mine.txt"):
        (folder / name).write_text("mine")
    place.list([0, 6])
    place.predict(*FOLDER, "DATA.target_stride=1")
    assert left(place) == {"preds.hdf", "masks", "probability", "seg_img"} | kept
    assert {path.name for path in (folder / "masks").iterdir()} == {"0.png", "6.png", "mine.txt"}
    assert [path.name for path in (folder / "seg_img").iterdir()] == ["mine.txt"]


def test_outputs_of_the_same_prediction_stay(place: Place) -> None:
    everything(place, *LABELLED)
    derived = {"objects.csv", "report.html", "seg_img", "masks", "probability", "instances"}
    assert left(place) == ALWAYS | derived
    folder = place.root / "out/inference/tiny"
    (folder / ".instances-7").mkdir()  # killed while objects were being found
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"] is not None
    run(place.inference(*LABELLED, output_format="tiff"), Wanted())
    assert left(place) == ALWAYS | derived | {"masks.ome.tif", "probability.ome.tif"}
    again = json.loads((folder / "summary.json").read_text())
    for name in ("seconds", "instance_scores", "scores"):
        assert again[name] == summary[name]
    row = ",".join("777" for _ in Mitochondrion._fields)
    header, *_ = (folder / "objects.csv").read_text().splitlines()
    (folder / "objects.csv").write_text(f"{header}\n{row}\n")
    run(place.inference(*LABELLED), Wanted(report=True))
    assert "777" in (folder / "report.html").read_text()


def test_unfinished_predictions_of_another_kind_go(place: Place) -> None:
    place.interrupt(*JOINED, output_format="ome-zarr")
    assert "preds_xy.hdf.part" in left(place)
    (place.root / "out/inference/tiny/.masks.part.mrc").touch()  # killed, not interrupted
    place.predict(*FOLDER)
    assert left(place) == {"preds.hdf", "masks", "probability"}
    place.interrupt(*FOLDER)
    place.predict(*FOLDER, "TEST.z_average=30")
    assert left(place) == {"preds.hdf", "masks", "probability"}


def test_an_interrupted_prediction_leaves_nothing_of_the_one_before(place: Place) -> None:
    everything(place, *LABELLED)
    overwrite_section(place)
    place.interrupt(*LABELLED)
    assert left(place) == {"preds.hdf.part"}
