"""The volumes a config names: on their own grid, and on the working grid of the network."""

from pathlib import Path
from typing import Literal

from dataloader.formats.opening import EXPECTED, find_volume, is_section_folder, open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.published.catalogue import LISTS_OF_ALL_SECTIONS
from dataloader.volume import Volume
from utils.config.schema import DataSettings
from utils.errors import UserError, warn
from utils.paths import CONFIG_DIR, Workspace

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
SAME_SIZE = 0.02  # relative difference of pixel sizes that does not matter


def open_images(workspace: Workspace, data: DataSettings, role: Role, keep: bool = True) -> Volume:
    """The sections of ``source``, ``target`` or ``val``, at the working pixel size.

    Args:
        keep: in memory, if they fit.

    Raises:
        UserError: the config names none, or nothing readable is there.
    """
    return _open(workspace, data, role, _scale(workspace, data, role), keep=keep)


def open_labels(
    workspace: Workspace,
    data: DataSettings,
    role: Literal["source", "val"],
    working: bool = True,
    keep: bool = True,
) -> Volume | None:
    """The masks of ``source`` or ``val``; None where the validation volume has none.

    Args:
        working: at the working pixel size; else on their own grid.
        keep: in memory, if they fit.

    Raises:
        UserError: the source's are not there, or not readable.
    """
    path = getattr(data, LABELS[role])
    if role == "val" and (path is None or find_volume(workspace.data_path(path)) is None):
        return None
    scale = _scale(workspace, data, role) if working else 1.0
    return _open(workspace, data, role, scale, masks=True, keep=keep)


def pixel_size(data: DataSettings, role: Role, volume: Volume) -> float | None:
    """In-plane, nm: the config's, else that of the volume's own metadata, else None."""
    own = volume.voxel_size
    return getattr(data, SIZES[role]) or (own.in_plane if own else None)


def section_spacing(data: DataSettings, role: Role, volume: Volume) -> float | None:
    """Between sections, nm: the config's, else that of the volume's own metadata, else None."""
    own = volume.voxel_size
    return getattr(data, SPACINGS[role]) or (own.z if own else None)


def voxel_size(data: DataSettings, volume: Volume) -> VoxelSize | None:
    """Of a target or validation volume on its own grid: the config's over the file's; or None."""
    in_plane = pixel_size(data, "val", volume)
    spacing = section_spacing(data, "val", volume)
    return VoxelSize(spacing, in_plane, in_plane) if spacing and in_plane else None


def at_common_size(workspace: Workspace, data: DataSettings) -> DataSettings:
    """The settings with the working pixel size of a training in them.

    Where the config gives none and the sizes of source and target are known and differ, it is the
    coarser of the two: nothing is made up by enlarging.
    """
    if data.pixel_size_working is not None:
        return data
    sizes = [_own_size(workspace, data, role) for role in ("source", "target")]
    if None in sizes or _same(*sizes):
        return data
    return data.model_copy(update={"pixel_size_working": max(sizes)})


def as_trained(data: DataSettings, pixel_size: float | None) -> DataSettings:
    """The settings with the pixel size, nm, a network was trained at, where they give none."""
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


def _scale(workspace: Workspace, data: DataSettings, role: Role) -> float:
    """Working pixels per pixel of a volume's own grid; 1 without resampling."""
    working = data.pixel_size_working
    if working is None:
        return 1.0
    own = _own_size(workspace, data, role)
    if own is None:
        raise UserError(
            f"DATA.{SIZES[role]}: missing, to bring {getattr(data, IMAGES[role])} to the working "
            f"{working:g} nm (DATA.pixel_size_working); its files do not tell it"
        )
    return own / working


def _own_size(workspace: Workspace, data: DataSettings, role: Role) -> float | None:
    if getattr(data, SIZES[role]):
        return getattr(data, SIZES[role])
    return pixel_size(data, role, _open(workspace, data, role, 1.0, keep=False))


def _same(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_SIZE * max(one, other)


def _list_file(workspace: Workspace, data: DataSettings, role: Role, volume: Path) -> Path | None:
    """The list of a folder's sections to use; None: all of them.

    Looked for under the data root, then as the shipped studies have it, in ``config/``, then in the
    project's own ``data/``.

    Raises:
        UserError: the config names one that is nowhere.
    """
    key, named = LISTS[role], getattr(data, LISTS[role])
    place = find_volume(volume)
    if named is None or place is None:
        return None
    if not is_section_folder(place.path):
        warn(f"DATA.{key}: {named}: not used, as lists are of folders and {place.path} is none")
        return None
    local = workspace.data_path(named)
    elsewhere = (CONFIG_DIR / named, Workspace().data_path(named))
    found = next((file for file in (local, *elsewhere) if file.is_file()), None)
    if found is None and any(local == workspace.data / name for name in LISTS_OF_ALL_SECTIONS):
        warn(
            f"DATA.{key}: {local}: no such list, so that all sections are used; "
            "prepare_data.py writes it"
        )
    elif found is None:
        raise UserError(
            f"DATA.{key}: {local}: no such file; expected the names of sections, one a line; to "
            f"use all sections, give --set DATA.{key}=null"
        )
    return found


def _open(
    workspace: Workspace,
    data: DataSettings,
    role: Role,
    scale: float,
    masks: bool = False,
    keep: bool = True,
) -> Volume:
    key = (LABELS if masks else IMAGES)[role]
    path: Path | None = getattr(data, key)
    if path is None:
        raise UserError(f"DATA.{key}: missing; expected {EXPECTED}")
    list_file = _list_file(workspace, data, role, workspace.data_path(path))
    try:
        return open_volume(workspace.data_path(path), list_file, scale, masks, keep)
    except UserError as error:
        raise UserError(f"DATA.{key}: {error}") from None
