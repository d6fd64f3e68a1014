"""Open the volumes that a config names, on their own grid or at the working pixel size."""

from pathlib import Path
from typing import Literal

from dataloader.corrections import CorrectedSections
from dataloader.formats.opening import EXPECTED, find_volume, is_section_folder, open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.published.catalogue import LISTS_OF_ALL_SECTIONS
from dataloader.volume import Volume
from utils.config.schema import DataSettings
from utils.errors import UserError, warn
from utils.paths import CONFIG_DIR, Workspace, address_of, shown

Role = Literal["source", "target", "val"]
IMAGES = {"source": "data_dir_img", "target": "data_dir_target", "val": "data_dir_val"}
LABELS = {"source": "data_dir_label", "val": "data_dir_val_label"}
LISTS = {"source": "data_list", "target": "data_list_target", "val": "data_list_val"}
SIZES = {
    "source": "pixel_size_source",
    "target": "pixel_size_target",
    "val": "pixel_size_target",
}
SPACINGS = {
    "source": "section_spacing_source",
    "target": "section_spacing_target",
    "val": "section_spacing_target",
}
SAME_SIZE = 0.02  # relative difference up to which pixel sizes count as equal


def open_images(workspace: Workspace, data: DataSettings, role: Role, keep: bool = True) -> Volume:
    """The sections of ``source``, ``target`` or ``val``, in square pixels of the working size.

    Args:
        workspace: has the data root.
        data: paths and pixel sizes.
        role: which volume.
        keep: keep the volume in memory if it fits.

    Raises:
        UserError: the config does not name the volume, or it is missing or unreadable.
    """
    return _open(workspace, data, role, _scale(workspace, data, role), keep=keep)


def open_labels(
    workspace: Workspace,
    data: DataSettings,
    role: Literal["source", "val"],
    working: bool = True,
    keep: bool = True,
) -> Volume | None:
    """The masks of ``source`` or ``val``; None if the validation volume has none.

    Args:
        workspace: has the data root.
        data: paths and pixel sizes.
        role: which volume.
        working: at the working pixel size; otherwise on their own grid.
        keep: keep the volume in memory if it fits.

    Raises:
        UserError: the labels of the source are missing, or labels are unreadable.
    """
    path = getattr(data, LABELS[role])
    if role == "val" and (path is None or find_volume(workspace.data_path(path)) is None):
        return None
    scale = _scale(workspace, data, role) if working else (1.0, 1.0)
    return _open(workspace, data, role, scale, masks=True, keep=keep)


def open_corrections(
    workspace: Workspace, data: DataSettings, target: Volume
) -> CorrectedSections | None:
    """The corrected masks of the target at the working pixel size; None if there are none.

    Raises:
        UserError: the corrections are missing, unreadable, or do not fit the target.
    """
    if data.corrections is None:
        return None
    path, scale = workspace.data_path(data.corrections), _scale(workspace, data, "target")
    try:
        masks = open_volume(path, None, scale, masks=True)
        return CorrectedSections(masks, target, is_section_folder(find_volume(path).path))
    except UserError as error:
        raise UserError(f"DATA.corrections: {error}") from None


def pixel_sides(data: DataSettings, role: Role, volume: Volume) -> tuple[float, float] | None:
    """Pixel size (y, x) in nm: from the config, else from the volume's metadata, else None."""
    own = volume.voxel_size
    from_file = None if own is None or own.in_plane is None else (own.y, own.x)
    return _configured_sides(data, role) or from_file


def pixel_size(data: DataSettings, role: Role, volume: Volume) -> float | None:
    """Side in nm of a square pixel with the area of the volume's pixels; None if unknown."""
    return _square(pixel_sides(data, role, volume))


def section_spacing(data: DataSettings, role: Role, volume: Volume) -> float | None:
    """Section spacing in nm: from the config, else from the volume's metadata, else None."""
    own = volume.voxel_size
    return getattr(data, SPACINGS[role]) or (own.z if own else None)


def voxel_size(data: DataSettings, volume: Volume) -> VoxelSize | None:
    """Voxel size of a target or validation volume on its own grid; None if a side is unknown."""
    sides = pixel_sides(data, "val", volume)
    spacing = section_spacing(data, "val", volume)
    return VoxelSize(spacing, *sides) if spacing and sides else None


def at_common_size(workspace: Workspace, data: DataSettings) -> DataSettings:
    """The settings with the working pixel size of a training run.

    If the config gives none, and the pixel sizes of sources and target are known and differ, it is
    the coarsest, so that no volume is upsampled.
    """
    if data.pixel_size_working is not None:
        return data
    sizes = [_square(_own_sides(workspace, each, "source")) for each in data.each_source]
    sizes.append(_square(_own_sides(workspace, data, "target")))
    if None in sizes or _same(min(sizes), max(sizes)):
        return data
    return data.model_copy(update={"pixel_size_working": max(sizes)})


def as_trained(data: DataSettings, pixel_size: float | None) -> DataSettings:
    """The settings, with the pixel size (nm) a network was trained at if they give none."""
    own = data.pixel_size_working
    if pixel_size is None:
        return data
    if own is None:
        return data.model_copy(update={"pixel_size_working": pixel_size})
    if not _same(own, pixel_size):
        warn(
            f"DATA.pixel_size_working: found {own:g} nm, but the network was trained at "
            f"{pixel_size:g} nm"
        )
    return data


def _scale(workspace: Workspace, data: DataSettings, role: Role) -> tuple[float, float]:
    """Working pixels per pixel of the volume, along (y, x).

    Working pixels are square. If no working size is given, they have the area of the volume's
    pixels.
    """
    sides, working = _own_sides(workspace, data, role), data.pixel_size_working
    if working is None:
        if sides is None or _same(*sides):
            return 1.0, 1.0
        working = _square(sides)
    if sides is None:
        path = getattr(data, IMAGES[role])
        raise UserError(
            f"DATA.{SIZES[role]}: missing; needed to resample {address_of(path) or path} to "
            f"{working:g} nm (DATA.pixel_size_working), as its files do not give a pixel size"
        )
    return sides[0] / working, sides[1] / working


def _own_sides(workspace: Workspace, data: DataSettings, role: Role) -> tuple[float, float] | None:
    """Pixel size (y, x) in nm; the volume is opened only if the config does not give it."""
    configured = _configured_sides(data, role)
    return configured or pixel_sides(data, role, _open(workspace, data, role, keep=False))


def _configured_sides(data: DataSettings, role: Role) -> tuple[float, float] | None:
    side = getattr(data, SIZES[role])
    return (side, side) if side else None


def _square(sides: tuple[float, float] | None) -> float | None:
    """The side of a square of the same area."""
    if sides is None:
        return None
    return sides[0] if sides[0] == sides[1] else (sides[0] * sides[1]) ** 0.5


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_SIZE * max(one, other)


def _list_file(workspace: Workspace, data: DataSettings, role: Role, volume: Path) -> Path | None:
    """The list that names the sections of a folder to use; None: all of them.

    Searched for under the data root, then in ``config/`` (where the shipped studies have theirs),
    then in the project's ``data/``.

    Raises:
        UserError: the config names a list that does not exist.
    """
    key, named = LISTS[role], getattr(data, LISTS[role])
    place = find_volume(volume)
    if named is None or place is None:
        return None
    if not is_section_folder(place.path):
        warn(f"DATA.{key}: {named}: not used, as {shown(place.path)} is not a folder of sections")
        return None
    local = workspace.data_path(named)
    elsewhere = (CONFIG_DIR / named, Workspace().data_path(named))
    found = next((file for file in (local, *elsewhere) if file.is_file()), None)
    if found is None and any(local == workspace.data / name for name in LISTS_OF_ALL_SECTIONS):
        warn(
            f"DATA.{key}: {local}: no such list, all sections are used; prepare_data.py writes "
            "the list"
        )
    elif found is None:
        raise UserError(
            f"DATA.{key}: {local}: no such file; expected the names of sections, one per line; to "
            f"use all sections, give --set DATA.{key}=null"
        )
    return found


def _open(
    workspace: Workspace,
    data: DataSettings,
    role: Role,
    scale: tuple[float, float] = (1.0, 1.0),
    masks: bool = False,
    keep: bool = True,
) -> Volume:
    key = (LABELS if masks else IMAGES)[role]
    path: Path | None = getattr(data, key)
    if path is None:
        raise UserError(f"DATA.{key}: missing; expected {EXPECTED}")
    list_file = _list_file(workspace, data, role, workspace.data_path(path))
    try:
        where = workspace.data_path(path)
        return open_volume(where, list_file, scale, masks, keep, fill=not masks)
    except UserError as error:
        raise UserError(f"DATA.{key}: {error}") from None
