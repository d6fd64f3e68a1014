"""N5, precomputed and Zarr volumes in chunks, from disc and from a web server on this machine."""

import json
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from dataloader.description import contact_sheet, describe_volume
from dataloader.formats import stores
from dataloader.formats.n5 import find_data_set
from dataloader.formats.opening import is_section_folder, open_volume
from dataloader.formats.tensorstore import MARKS
from dataloader.inspection import REMOTE_PART, inspect_images
from dataloader.loader import load_batches
from dataloader.pairs import PairDataset, Sampling
from dataloader.part import central, write_crop
from tests.dataloader.store_files import (
    SHAPE,
    SIZE,
    Server,
    V,
    n5,
    open_organelle,
    precomputed,
    put,
)
from tests.volume_files import ome_zarr
from utils.config.schema import DataSettings, TrainSettings
from utils.errors import UserError
from utils.paths import Workspace, absolute, address_of, shown
from utils.runtime.distributed import Group

PIXEL = {"pixelResolution": {"unit": "nm", "dimensions": [4, 4, 30]}}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serves the test's folder. What fails is asked for again at once, and not often."""
    quick = {"max_retries": 3, "initial_delay": "1ms", "max_delay": "1ms"}
    monkeypatch.setattr(stores, "RETRIES", quick)
    monkeypatch.setattr(stores, "FIRST_RETRIES", 3)
    stores.context.cache_clear()
    server = Server(tmp_path)
    yield server
    server.close()
    stores.context.cache_clear()


def zarr_array(folder: Path, version: int, **attributes: object) -> Path:
    array = zarr.create_array(
        folder, data=V, chunks=(2, 16, 16), zarr_format=version, attributes=attributes
    )
    assert array.shape == SHAPE
    return folder


def image(folder: Path, version: int) -> Path:
    return ome_zarr(folder, V, version)


# what is written, and where the volume is in it
STORES: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "n5": (lambda p: n5(p / "v.n5" / "raw", **PIXEL), "v.n5/raw", "n5"),
    "n5-raw": (lambda p: n5(p / "v" / "a", compression="raw", **PIXEL), "v/a", "n5"),
    "n5-levels": (lambda p: open_organelle(p / "v.n5"), "v.n5/em/raw", "n5"),
    "n5-name": (lambda p: open_organelle(p / "v.n5"), "v.n5:em/raw", "n5"),
    "precomputed": (lambda p: precomputed(p / "v"), "v", "precomputed"),
    "precomputed-scale": (lambda p: precomputed(p / "v"), "v/4_4_30", "precomputed"),
    "precomputed-png": (lambda p: precomputed(p / "v", encoding="png"), "v", "precomputed"),
    "precomputed-sharded": (lambda p: precomputed(p / "v", sharded=True), "v", "precomputed"),
    "zarr2": (lambda p: zarr_array(p / "v.zarr", 2, resolution=SIZE, units="nm"), "v.zarr", "zarr"),
    "zarr3": (lambda p: zarr_array(p / "v.zarr", 3, resolution=SIZE, units="nm"), "v.zarr", "zarr"),
    "ome-zarr2": (lambda p: image(p / "v", 2), "v.zarr", "ome-zarr"),
    "ome-zarr3": (lambda p: image(p / "v", 3), "v.zarr", "ome-zarr"),
    "ome-zarr-level": (lambda p: image(p / "v", 3), "v.zarr/s0", "ome-zarr"),
}


@pytest.mark.parametrize("place", ["disc", "server"])
@pytest.mark.parametrize("name", STORES)
def test_values_types_and_voxel_size(tmp_path: Path, server: Server, name: str, place: str) -> None:
    write, inside, kind = STORES[name]
    write(tmp_path)
    volume = open_volume(server.at(inside) if place == "server" else tmp_path / inside)
    assert (volume.shape, volume.kind, volume.dtype) == (SHAPE, kind, np.uint8)
    assert volume.kept == (place == "disc")
    for index in (3, 0, 5):
        np.testing.assert_array_equal(volume.section(index), V[index])
    np.testing.assert_array_equal(volume.crop(2, 5, 7, 16, 20), V[2, 5:21, 7:27])
    np.testing.assert_array_equal(volume.crop(2, 30, 40, 16, 20), V[2, 30:, 40:])
    np.testing.assert_allclose(volume.voxel_size, SIZE, rtol=1e-6)
    assert volume.voxel_size_note == ""


@pytest.mark.parametrize("place", ["disc", "server"])
@pytest.mark.parametrize("inside", ["v.n5/em/raw/s1", "p/8_8_30"])
def test_a_coarser_level_by_its_name(
    tmp_path: Path, server: Server, inside: str, place: str
) -> None:
    open_organelle(tmp_path / "v.n5")
    precomputed(tmp_path / "p")
    volume = open_volume(server.at(inside) if place == "server" else tmp_path / inside)
    np.testing.assert_array_equal(volume.section(4), V[4, ::2, ::2])
    assert volume.voxel_size == (30, 8, 8)


def n5_levels(p: Path, group: dict, level: dict, number: int = 1) -> Path:
    put(p / "v.n5" / "em" / "attributes.json", **group)
    n5(p / "v.n5" / "em" / f"s{number}", **level)
    return p / "v.n5" / "em" / f"s{number}"


MICRO = {"unit": "um", "dimensions": [0.004, 0.004, 0.03]}
COSEM = {"axes": ["z", "y", "x"], "units": ["nm"] * 3, "scale": [30, 4, 4]}
SCALES = {"scales": [[1, 1, 1], [2, 2, 1]]}
SIZES: dict[str, tuple[Callable[[Path], Path], tuple | None]] = {
    "micrometres": (lambda p: n5(p / "v", pixelResolution=MICRO), SIZE),
    "COSEM's transform": (lambda p: n5(p / "v", transform=COSEM), SIZE),
    "COSEM's before others": (
        lambda p: n5(p / "v", transform=COSEM, pixelResolution=PIXEL["pixelResolution"] | {
            "dimensions": [1, 1, 1]}), SIZE,
    ),
    "neuroglancer's": (
        lambda p: n5(p / "v", resolution=[4, 4, 30], units=["nm"] * 3, axes=["x", "y", "z"]), SIZE,
    ),
    "each axis its own unit": (
        lambda p: n5(p / "v", resolution=[4, 4, 0.03], units=["nm", "nm", "um"]), SIZE,
    ),
    "the group's, and its scales": (lambda p: n5_levels(p, PIXEL | SCALES, {}), (30, 8, 8)),
    "the group's, and the level's factors": (
        lambda p: n5_levels(p, PIXEL, {"downsamplingFactors": [4, 4, 1]}), (30, 16, 16),
    ),
    "the level's own": (lambda p: n5_levels(p, SCALES, PIXEL), SIZE),
    "the level's own, and its factors": (
        lambda p: n5_levels(p, {}, PIXEL | {"downsamplingFactors": [2, 2, 1]}), (30, 8, 8),
    ),
    "of the level in the group": (
        lambda p: n5_levels(p, {"multiscales": [{"datasets": [
            {"path": "s1", "transform": COSEM}]}]}, {}), SIZE,
    ),
    "none": (lambda p: n5(p / "v"), None),
    "no unit": (lambda p: n5(p / "v", pixelResolution=[4, 4, 30]), None),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_voxel_sizes_of_n5(tmp_path: Path, name: str) -> None:
    write, expected = SIZES[name]
    size = open_volume(write(tmp_path)).voxel_size
    assert size == (None if expected is None else pytest.approx(expected))


AXES: dict[str, tuple[tuple[int, ...], dict]] = {  # the array's axes of z, y, x in reverse
    "z, y, x by name": ((2, 1, 0), {"axes": ["z", "y", "x"]}),
    "x, z, y by name": ((1, 0, 2), {"axes": ["x", "z", "y"]}),
    "COSEM's in NumPy's order": ((0, 1, 2), {"transform": COSEM}),
    "COSEM's in reverse": ((2, 1, 0), {"transform": COSEM | {"order": "F"}}),
    "N5-ij's transform": ((0, 1, 2), {"transform": COSEM | {"axes": ["x", "y", "z"]}}),
}


@pytest.mark.parametrize("name", AXES)
def test_axes_of_n5(tmp_path: Path, name: str) -> None:
    order, attributes = AXES[name]
    volume = open_volume(n5(tmp_path / "v", V.transpose(order), **attributes))
    np.testing.assert_array_equal(volume.section(2), V[2])


def test_only_the_chunks_of_a_window_are_fetched_and_once(tmp_path: Path, server: Server) -> None:
    precomputed(tmp_path / "v")
    volume = open_volume(server.at("v"))
    server.requests.clear()
    for index in (2, 3, 2):
        np.testing.assert_array_equal(volume.crop(index, 0, 16, 20, 10), V[index, :20, 16:26])
    chunks = {path: count for path, count in server.requests.items() if not path.endswith("info")}
    assert chunks == {"/v/4_4_30/116-132_200-216_9-11": 1, "/v/4_4_30/116-132_216-232_9-11": 1}


@pytest.mark.parametrize("code", [503, 429, 500])
def test_a_busy_server_is_asked_again(tmp_path: Path, server: Server, code: int) -> None:
    n5(tmp_path / "v", **PIXEL)
    server.failures = {"/v/attributes.json": (2, code), "/v/0/0/1": (2, code)}
    volume = open_volume(server.at("v"))
    np.testing.assert_array_equal(volume.section(3), V[3])
    assert server.requests["/v/0/0/1"] == 3


def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "v", **PIXEL)
    precomputed(tmp_path / "colours", channels=3)
    precomputed(tmp_path / "p")
    n5(tmp_path / "channels", np.stack([V, V]), axes=["x", "y", "z", "c"])
    put(tmp_path / "group.n5" / "attributes.json", n5="2.0.0")
    put(tmp_path / "meshes" / "info", **{"@type": "neuroglancer_legacy_mesh"})
    zarr.open_group(tmp_path / "many.zarr", zarr_format=2).create_array("a", data=V)
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "info").write_text("<html>")
    where = server.address
    for inside, says in {
        "nothing": "/nothing: found no volume, as info, .* are missing; expected an N5 data set",
        "page": "/page: found no volume, as info",
        "p/16_16_30": "/p: no scale 16_16_30; found 8_8_30, 4_4_30",
        "colours": "/colours: found 3 channels, expected one",
        "channels": r"/channels: found shape \(48, 40, 6, 2\), expected one channel, not 2",
        "group.n5": "/group.n5: found no N5 data set, .* such as .*/group.n5/em/s0",
        "meshes": "/meshes: found no volume; there is info; expected",
        "many.zarr": r"/many.zarr: found a Zarr group without an image .* name an array",
    }.items():
        with pytest.raises(UserError, match=f"^{where}{says}") as refused:
            open_volume(server.at(inside))
        assert "\n" not in str(refused.value)
    with pytest.raises(UserError, match=r"v: found no precomputed volume; there is attributes"):
        open_volume(Path(f"precomputed://{where}/v"))
    with pytest.raises(UserError, match="found format dvid, expected one of n5, precomputed"):
        open_volume(Path(f"dvid://{where}/v"))
    volume = open_volume(server.at("v"))
    server.failures = {"/v/0/0/1": (99, 503)}
    with pytest.raises(UserError, match=rf"^{where}/v: section 3 cannot be read \(.*All 3 retry"):
        volume.section(3)
    server.failures = {f"/v/{name}": (99, 403) for name in MARKS}
    with pytest.raises(UserError, match=rf"^{where}/v: cannot be read \(.*Forbidden.*403"):
        open_volume(server.at("v"))
    server.close()
    with pytest.raises(UserError, match=rf"^{where}/v: section 5 cannot be read \("):
        volume.section(5)
    with pytest.raises(UserError, match=rf"^{where}/v: cannot be read \(.*connect"):
        open_volume(server.at("v"))


def test_files_that_a_bucket_hides_count_as_missing(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "v", **PIXEL)
    hidden = [name for name in MARKS if name != "attributes.json"]
    server.failures = {f"/v/{name}": (99, 403) for name in hidden}
    np.testing.assert_array_equal(open_volume(server.at("v")).section(1), V[1])


def test_a_store_that_lists_its_arrays(tmp_path: Path, server: Server) -> None:
    for version in (2, 3):
        group = zarr.open_group(tmp_path / f"{version}.zarr", mode="w", zarr_format=version)
        group.create_array("em/raw", data=V)
        zarr.consolidate_metadata(tmp_path / f"{version}.zarr")
        volume = open_volume(server.at(f"{version}.zarr"))
        np.testing.assert_array_equal(volume.section(1), V[1])
        image(tmp_path / f"{version}.zarr" / "image", version)
        zarr.consolidate_metadata(tmp_path / f"{version}.zarr")
        assert open_volume(server.at(f"{version}.zarr")).kind == "ome-zarr"


def test_the_images_of_bioformats2raw(tmp_path: Path, server: Server) -> None:
    store = tmp_path / "b.zarr"
    put(store / ".zgroup", zarr_format=2)
    put(store / ".zattrs", **{"bioformats2raw.layout": 3})
    image(store / "0", 2).rename(store / "0")
    np.testing.assert_array_equal(open_volume(server.at("b.zarr")).section(1), V[1])
    image(store / "1", 2).rename(store / "1")
    with pytest.raises(UserError, match=r"\(0, 1, \.\.\.\); name .* such as .*/b\.zarr/0$"):
        open_volume(server.at("b.zarr"))


def test_containers_on_disc(tmp_path: Path) -> None:
    store = open_organelle(tmp_path / "v.n5")
    np.testing.assert_array_equal(open_volume(store).section(2), V[2])  # the only one
    n5(store / "labels" / "mito", V // 2)
    with pytest.raises(UserError, match=r"v\.n5: found several arrays, em/raw .*such as v\.n5:em"):
        open_volume(store)
    volume = open_volume(Path(f"{store}:labels/mito"), keep=False)
    np.testing.assert_array_equal(volume.section(2), V[2] // 2)
    assert volume.where == f"{store}:labels/mito"
    with pytest.raises(UserError, match=r"v\.n5: no data set raw; found em/raw "):
        open_volume(Path(f"{store}:raw"))
    assert not is_section_folder(store / "em" / "raw" / "s0")


def test_channels_of_n5_viewer(tmp_path: Path) -> None:
    n5(tmp_path / "v.n5" / "em" / "c0" / "s0")
    np.testing.assert_array_equal(open_volume(tmp_path / "v.n5" / "em").section(2), V[2])
    n5(tmp_path / "v.n5" / "em" / "c1" / "s0")
    with pytest.raises(UserError, match=r"em: found several channels, c0, c1, .* such as .*em/c0$"):
        open_volume(tmp_path / "v.n5" / "em")


def test_instance_numbers_of_64_bits(tmp_path: Path, server: Server) -> None:
    numbers = np.where(V > 200, V.astype(np.uint64) + 2**40, 0)
    precomputed(tmp_path / "v", numbers, "compressed_segmentation")
    volume = open_volume(server.at("v"))
    np.testing.assert_array_equal(volume.section(3), numbers[3])
    masks = open_volume(server.at("v"), masks=True)
    np.testing.assert_array_equal(masks.section(3), numbers[3] > 0)


@pytest.mark.parametrize("inside", ["v", "z.zarr"])
def test_the_fingerprint_follows_address_and_metadata(
    tmp_path: Path, server: Server, inside: str
) -> None:
    n5(tmp_path / "v", **PIXEL)
    n5(tmp_path / "w", **PIXEL)
    zarr_array(tmp_path / "z.zarr", 2)
    first = open_volume(server.at(inside)).fingerprint()
    assert open_volume(server.at(inside)).fingerprint() == first
    assert open_volume(server.at("w")).fingerprint() != first
    put(tmp_path / inside / ("attributes.json" if inside == "v" else ".zattrs"), changed=True)
    assert open_volume(server.at(inside)).fingerprint() != first


def test_the_fingerprint_on_disc_follows_the_chunks(tmp_path: Path) -> None:
    store = n5(tmp_path / "v.n5" / "raw", **PIXEL)
    first = open_volume(store).fingerprint()
    (store / "0" / "0" / "0").unlink()
    assert open_volume(store).fingerprint() != first
    scales = precomputed(tmp_path / "p")
    first = open_volume(scales).fingerprint()
    next((scales / "8_8_30").iterdir()).unlink()
    assert open_volume(scales).fingerprint() == first
    next((scales / "4_4_30").iterdir()).unlink()
    assert open_volume(scales).fingerprint() != first


def test_worker_processes_read_an_address(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "v", **PIXEL)
    volume = open_volume(server.at("v"))
    volume.section(0)  # open here before the workers start
    pairs = PairDataset(volume, None, Sampling(1, 32, (1,), 4))
    assert not pairs.fork_safe
    alone, shared = (
        load_batches(
            pairs, range(2), TrainSettings(batch_size=2, num_workers=workers),
            torch.device("cpu"), Group(),
        )
        for workers in (0, 1)
    )  # fmt: skip
    for one, other in zip(alone, shared, strict=True):
        assert one["images"].equal(other["images"])
    again = pickle.loads(pickle.dumps(volume))
    np.testing.assert_array_equal(again.section(2), V[2])
    assert PairDataset(open_volume(tmp_path / "v"), None, Sampling(1, 32, (1,), 4)).fork_safe


def test_a_large_volume_is_not_read_to_be_inspected(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataloader.inspection.REMOTE_PART", (2, 16, 16))
    assert REMOTE_PART == (64, 1024, 1024)
    black = V.copy()
    black[2, 12:28, 16:32] = 9
    precomputed(tmp_path / "v", black)
    facts = describe_volume(server.at("v"))
    assert facts.shape == SHAPE
    middle = black[2:4, 12:28, 16:32]
    assert facts.section_means == pytest.approx(middle.mean((1, 2)).tolist())
    assert facts.greys == (middle.min(), middle.max())
    assert "middle was examined: 2 sections of 16 x 16 pixels" in "".join(facts.warnings)
    assert inspect_images(open_volume(server.at("v"))).blank == [2]
    contact_sheet(open_volume(server.at("v")))
    chunks = [path.rpartition("/")[2] for path in server.requests if "4_4_30/" in path]
    assert sorted(chunks) == ["116-132_200-216_9-11", "116-132_216-232_9-11"]


def test_the_command_says_what_lies_at_an_address(
    tmp_path: Path, server: Server, command: Callable
) -> None:
    n5(tmp_path / "v", **PIXEL)
    picture = tmp_path / "sheet.png"
    done = command("inspect_volume", server.at("v"), "--json", "--picture", picture)
    facts = json.loads(done.out)
    assert (facts["format"], facts["shape"]) == ("n5", list(SHAPE))
    assert facts["voxel_size_nm"] == list(SIZE)
    assert picture.is_file()
    failed = command("inspect_volume", server.at("nothing"))
    assert failed.code == 2
    assert failed.err.startswith(f"error: {server.address}/nothing: found no volume, as info, ")
    assert failed.err.count("\n") == 1


def test_a_crop_of_an_address_is_written_as_ome_zarr(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "v", **PIXEL)
    crop = central(open_volume(server.at("v")), (2, 20, 24))
    written = open_volume(write_crop(crop, tmp_path, "crop", SIZE))
    assert (written.kind, written.voxel_size) == ("ome-zarr", SIZE)
    np.testing.assert_array_equal(written.section(1), V[3, 10:30, 12:36])


def test_of_a_box_at_an_address_each_chunk_is_fetched_once(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "v", **PIXEL)
    volume = open_volume(server.at("v[2:4, 4:24, 20:]"))
    assert volume.kept
    assert volume.where == f"{server.address}/v[2:4,4:24,20:{SHAPE[2]}]"
    server.requests.clear()
    for index in (0, 1, 0):
        np.testing.assert_array_equal(volume.section(index), V[2 + index, 4:24, 20:])
    assert not server.requests
    config = DataSettings(
        data_dir_img=server.at("v[2:4,:,:]"), data_dir_label="l", data_dir_target="t"
    )
    assert config.model_dump(mode="json")["data_dir_img"] == f"{server.address}/v[2:4,:,:]"


def test_a_missing_tensorstore_is_asked_for(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    n5(tmp_path / "v")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    for path in (tmp_path / "v", server.at("v")):
        with pytest.raises(
            UserError, match=r"^tensorstore is not installed, but needed to read N5"
        ):
            open_volume(path)


def test_the_cache_is_a_share_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "available_memory", lambda: 4000)
    assert stores.cache_bytes() == 1000
    monkeypatch.setattr(stores, "available_memory", lambda: None)
    assert stores.cache_bytes() == stores.LEAST_CACHE


ADDRESSES = {
    "https://host/a.zarr/b/": ("https://host/a.zarr/b", None),
    "https://host/a.zarr/|zarr3:": ("https://host/a.zarr", "zarr"),
    "s3://bucket/a.n5/|n5:em/s0/": ("s3://bucket/a.n5/em/s0", "n5"),
    "gs://bucket/a|neuroglancer-precomputed:": ("gs://bucket/a", "precomputed"),
    "precomputed://gs://bucket/a": ("gs://bucket/a", "precomputed"),
    "zarr2://http://host:80/a": ("http://host:80/a", "zarr"),
    "http://host:8000/a.n5:em/s0": ("http://host:8000/a.n5/em/s0", None),
}


@pytest.mark.parametrize("text", ADDRESSES)
def test_spellings_of_an_address(text: str) -> None:
    assert stores.Address.of(address_of(Path(text))) == ADDRESSES[text]
    assert absolute(text) == Path(text)
    assert shown(Path(text)) == str(text).rstrip("/")
    settings = DataSettings(data_dir_img="a", data_dir_label="b", data_dir_target=text)
    assert Workspace(Path("/data")).data_path(settings.data_dir_target) == Path(text)
    assert settings.model_dump(mode="json")["data_dir_target"] == text.rstrip("/")


@pytest.mark.parametrize("text", ["data/http", "s3", "C:/x", "/s3:/x", "v.h5:/main", "../gs/x"])
def test_paths_are_no_addresses(text: str) -> None:
    assert address_of(text) is None


def test_buckets_are_read_without_credentials_unless_some_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    assert stores.Store.at("s3://bucket/a").spec == {
        "driver": "s3", "bucket": "bucket", "path": "a/", "aws_credentials": {"type": "anonymous"},
    }  # fmt: skip
    google = stores.Store.at("gs://bucket/a").spec
    assert google == {
        "driver": "http", "base_url": "https://storage.googleapis.com", "path": "/bucket/a/",
    }  # fmt: skip
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "mine.json")
    assert "aws_credentials" not in stores.Store.at("s3://bucket/a").spec
    assert stores.Store.at("gs://bucket/a").spec["driver"] == "gcs"


def test_a_google_bucket(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "GOOGLE", f"{server.address}/")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    precomputed(tmp_path / "bucket" / "em")
    volume = open_volume(Path("precomputed://gs://bucket/em"))
    np.testing.assert_array_equal(volume.section(3), V[3])
    assert volume.where == "precomputed://gs://bucket/em"


def test_a_bucket_that_speaks_s3(tmp_path: Path, server: Server) -> None:
    n5(tmp_path / "bucket" / "em" / "s0", **PIXEL)
    at = {"endpoint": server.address, "aws_region": "us-east-1"}
    store = stores.Store(stores.Store.at("s3://bucket/em").spec | at, "s3://bucket/em")
    found = find_data_set(store, None)
    assert found.voxel_size.size == SIZE
    array = stores.LazyArray(found.store.open_array({"driver": "n5"}))
    np.testing.assert_array_equal(array[:, :, 2], V[2].T)


def test_folders_are_named_after_addresses() -> None:
    for address, name in {
        "s3://b/jrc.n5/em/fibsem-uint8/s0": "jrc-em-fibsem-uint8-s0",
        "https://host/a b/v.zarr": "v",
        "precomputed://gs://flyem/em data/": "em-data",
        "https://host/x?key=1": "x",
    }.items():
        assert stores.name_of(address) == name
