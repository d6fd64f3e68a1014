"""Pixel sizes: of the config, of the files, and the size all are brought to."""

import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataloader.formats.voxel_size import VoxelSize
from dataloader.roles import LISTS, as_trained, at_common_size, open_images, open_labels, voxel_size
from dataloader.synthetic import write_sections
from prediction.z_average import sections_in
from utils.config.schema import DataSettings
from utils.errors import UserError
from utils.paths import CONFIG_DIR, Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A source of 4 nm, a target of 8 nm, one of 4 nm but for rounding, and one of unknown size."""
    for name, size in (("source", 4), ("target", 8), ("alike", 4.01), ("unknown", None)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["main"] = np.random.default_rng(0).integers(0, 255, (4, 60, 80), np.uint8)
            if size:
                file["main"].attrs["resolution"] = [30, size, size]
    return Workspace(tmp_path, tmp_path)


def settings(target: str = "target", source: str = "source", **changes: float) -> DataSettings:
    return DataSettings(
        data_dir_img=source,
        data_dir_label=source,
        data_dir_target=target,
        data_dir_val=target,
        **changes,
    )


@pytest.mark.parametrize(
    ("target", "changes", "source_shape", "target_shape"),
    [
        ("target", {}, (30, 40), (60, 80)),  # the coarser
        ("alike", {}, (60, 80), (60, 80)),
        ("unknown", {}, (60, 80), (60, 80)),
        ("unknown", {"pixel_size_target": 2}, (60, 80), (30, 40)),
        ("target", {"pixel_size_target": 4}, (60, 80), (60, 80)),  # the config overrides the file
        ("target", {"pixel_size_working": 16}, (15, 20), (30, 40)),
        ("unknown", {"pixel_size_working": 16, "pixel_size_target": 4}, (15, 20), (15, 20)),
    ],
)
def test_source_and_target_are_brought_to_one_size(
    workspace: Workspace, target: str, changes: dict, source_shape: tuple, target_shape: tuple
) -> None:
    data = at_common_size(workspace, settings(target, **changes))
    assert open_images(workspace, data, "source").shape[1:] == source_shape
    assert open_labels(workspace, data, "source").shape[1:] == source_shape
    for role in ("target", "val"):
        assert open_images(workspace, data, role).shape[1:] == target_shape
        assert open_images(workspace, data, role).original.shape[1:] == (60, 80)


@pytest.mark.parametrize(("target", "source", "key"), [
    ("unknown", "source", "pixel_size_target"), ("target", "unknown", "pixel_size_source"),
])  # fmt: skip
def test_a_working_size_needs_both_sizes(workspace, target: str, source: str, key: str) -> None:
    data = at_common_size(workspace, settings(target, source, pixel_size_working=10))
    with pytest.raises(UserError, match=rf"DATA\.{key}: missing; .* unknown to 10 nm"):
        for role in ("source", "target"):
            open_images(workspace, data, role)


def test_inference_takes_the_size_of_training(workspace: Workspace, capsys) -> None:
    data = as_trained(settings(), 16)
    assert open_images(workspace, data, "val").shape[1:] == (30, 40)
    assert as_trained(settings(), None).pixel_size_working is None
    assert not capsys.readouterr().err
    assert as_trained(settings(pixel_size_working=4), 16).pixel_size_working == 4
    assert "trained at 16 nm" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("thickness", "spacing", "count"),
    [(50, 5, 9), (50, 40, 1), (30, 30, 1), (30, 10, 3), (4, 50, 1), (50, 10, 5)],
)
def test_sections_that_make_up_a_thickness(thickness: float, spacing: float, count: int) -> None:
    assert sections_in(thickness, spacing) == count


@pytest.mark.parametrize("spacing", [0.1, 0.7, 3.3, 5, 8.6, 40, 1 / 3])
def test_sections_near_a_thickness_are_chosen_alike(spacing: float) -> None:
    assert sections_in(spacing / 10, spacing) == 1
    for odd in range(1, 41, 2):
        for sections in (odd - 0.99, odd - 0.5, odd, odd + 0.5, odd + 0.99):
            assert sections_in(sections * spacing, spacing) == odd
        assert sections_in((odd + 1) * spacing, spacing) == odd  # as near to the next
        assert sections_in((odd + 1.01) * spacing, spacing) == odd + 2


def test_wider_spaced_sections_are_never_more() -> None:
    for thickness in (30, 50):
        counts = [sections_in(thickness, spacing / 100) for spacing in range(100, 6000)]
        assert counts == sorted(counts, reverse=True)


def test_voxel_size_in_force(workspace: Workspace) -> None:
    volume = open_images(workspace, settings(), "val")
    assert voxel_size(settings(), volume) == VoxelSize(30, 8, 8)
    changed = settings(pixel_size_target=5, section_spacing_target=50)
    assert voxel_size(changed, volume) == VoxelSize(50, 5, 5)
    unknown = open_images(workspace, settings("unknown"), "val")
    assert voxel_size(settings("unknown", pixel_size_target=5), unknown) is None


SHIPPED_LIST = "studies/lucchi_first_half.txt"


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., list[str]]:
    """The names of the sections that a config with a list uses, of a folder of 82."""
    write_sections(tmp_path / "folder", np.arange(82 * 12, dtype=np.uint16).reshape(82, 3, 4))

    def names(list_file: str, role: str = "target") -> list[str]:
        data = DataSettings(
            data_dir_img="folder",
            data_dir_label="folder",
            data_dir_target="folder",
            data_dir_val="folder",
            **{LISTS[role]: list_file},
        )
        return open_images(Workspace(tmp_path, tmp_path), data, role).names

    return names


def test_a_list_is_looked_for_under_the_data_root_before_the_shipped_ones(
    listed, tmp_path: Path
) -> None:
    assert listed(SHIPPED_LIST) == (CONFIG_DIR / SHIPPED_LIST).read_text().split()
    own = tmp_path / SHIPPED_LIST
    own.parent.mkdir()
    own.write_text("003.png\n001.png\n")
    assert listed(SHIPPED_LIST) == listed(f"../data/{SHIPPED_LIST}") == ["003.png", "001.png"]
    assert listed(str(own)) == ["003.png", "001.png"]


@pytest.mark.parametrize("role", LISTS)
def test_a_list_that_is_nowhere_is_refused(listed, tmp_path: Path, role: str) -> None:
    with pytest.raises(UserError) as caught:
        listed("studies/lucchi_frist_half.txt", role)
    key = f"DATA.{LISTS[role]}"
    assert str(caught.value) == (
        f"{key}: {tmp_path}/studies/lucchi_frist_half.txt: no such file; expected the names of "
        f"sections, one per line; to use all sections, give --set {key}=null"
    )


@pytest.mark.parametrize("prefix", ["", "../data/", "data/"])
@pytest.mark.parametrize("name", ["VNC3/train.txt", "Lucchi/train.txt", "Lucchi/testing.txt"])
def test_lists_of_the_published_configs_may_be_missing(
    listed, tmp_path: Path, capsys, name: str, prefix: str
) -> None:
    if (Workspace().data / name).exists():
        pytest.skip(f"the project's own data/ has {name}")
    assert len(listed(prefix + name)) == 82
    assert capsys.readouterr().err == (
        f"warning: DATA.data_list_target: {tmp_path / name}: no such list, all sections are "
        "used; prepare_data.py writes the list\n"
    )
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("007.png\n")
    assert listed(prefix + name) == ["007.png"]


def test_a_list_beside_a_file_is_said_to_be_unused(workspace: Workspace, capsys) -> None:
    data = settings(data_list_target="gone.txt")
    assert len(open_images(workspace, data, "target")) == 4
    assert re.fullmatch(
        r"warning: DATA\.data_list_target: gone\.txt: .*target\.h5 is not a folder of sections\n",
        capsys.readouterr().err,
    )
