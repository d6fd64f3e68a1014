"""Open the volume at a path."""

import re
from pathlib import Path
from typing import NamedTuple

from dataloader.filled_volume import FilledVolume
from dataloader.formats.base import MEMORY_SHARE
from dataloader.formats.folder import FolderVolume, ImageVolume, read_names
from dataloader.formats.hdf5 import HDF5_SUFFIXES, Hdf5Volume
from dataloader.formats.registry import foreign, is_chunked, is_image, is_zarr, reader_of
from dataloader.formats.tensorstore import StoreVolume
from dataloader.formats.zarr import ZarrVolume
from dataloader.part import BoxVolume
from dataloader.volume import KeptVolume, MaskVolume, ResampledVolume, Volume
from utils.errors import UserError
from utils.paths import address_of
from utils.runtime.memory import available_memory

EXPECTED = (
    "a folder of sections, an HDF5, TIFF, MRC or NIfTI file, a Zarr or N5 store, a precomputed "
    "volume, or an image; file:name for an array in it; or an address (http, https, s3, gs)"
)

BOX = re.compile(r"(.+)\[([^\[\]]*)\]")  # a path and the box after it


class Place(NamedTuple):
    """Location of a volume.

    Attributes:
        path: folder, file or store, or an address.
        dataset: name of the array in it, if given.
        box: part of the volume, see ``dataloader.part.BoxVolume``, if given.
    """

    path: Path
    dataset: str | None = None
    box: str | None = None


def open_volume(
    path: Path,
    list_file: Path | None = None,
    scale: float | tuple[float, float] = 1.0,
    masks: bool = False,
    keep: bool = True,
    fill: bool = False,
) -> Volume:
    """Open the volume at a path.

    Args:
        path: a folder of sections, an HDF5, TIFF, MRC or NIfTI file, a Zarr or N5 store, a
            precomputed volume, or an image; with ``:name`` for an array in it. The suffix of an
            HDF5 file may be omitted. Or an address (``utils.paths.address_of``). A box at the end
            (``dataloader.part.BoxVolume``) selects a part.
        list_file: text file that names the sections of a folder to use, one per line.
        scale: new pixels per pixel, or the same for (y, x).
        masks: read the volume as labels (``dataloader.volume.MaskVolume``).
        keep: keep the volume in memory if it needs at most a quarter of the available memory. A
            volume at an address is not, unless the path names a box of it.
        fill: fill blank areas (``dataloader.blank``).

    Raises:
        UserError: there is no volume, or it is unreadable.
    """
    place = find_volume(path)
    if place is None:
        raise UserError(f"{path}: not found; expected {EXPECTED}")
    volume = _open(place, list_file)
    if place.box is not None:
        volume = BoxVolume(volume, place.box)
    if masks:
        volume = MaskVolume(volume)
    elif fill:
        volume = FilledVolume(volume)
    if scale not in (1.0, (1.0, 1.0)):
        volume = ResampledVolume(volume, scale)
    whole_address = volume.remote and place.box is None
    return KeptVolume(volume) if keep and not whole_address and _fits(volume) else volume


def find_volume(path: Path) -> Place | None:
    """The location that a path refers to; None if nothing is there. An address is not tried."""
    boxed = BOX.fullmatch(str(path))
    if address_of(path):
        return Place(Path(boxed[1]), box=boxed[2]) if boxed else Place(path)
    for candidate in (path, *(path.with_name(path.name + suffix) for suffix in HDF5_SUFFIXES)):
        if candidate.exists():
            return Place(candidate)
    if boxed:
        place = find_volume(Path(boxed[1]))
        return place and place._replace(box=boxed[2])
    file, colon, dataset = str(path).rpartition(":")
    if colon and dataset and Path(file).name:
        place = find_volume(Path(file))
        return place and Place(place.path, dataset)
    return None


def is_section_folder(path: Path) -> bool:
    """Whether a path is a folder of sections, not a file or a store of chunks."""
    return path.is_dir() and not is_zarr(path) and not is_chunked(path)


def _open(place: Place, list_file: Path | None) -> Volume:
    path, dataset, _ = place
    if is_section_folder(path):
        return FolderVolume(path, read_names(list_file))
    if path.is_dir() and is_zarr(path):
        return ZarrVolume(path, dataset)
    if path.is_dir() or address_of(path):
        return StoreVolume(path, dataset)
    if is_image(path) and not dataset:
        return ImageVolume(path)
    kind = reader_of(path)
    if kind is None:
        _refuse_foreign(path)
        raise UserError(f"{path}: unknown format; expected {EXPECTED}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: the file is empty; was it copied completely?")
    if dataset and kind is not Hdf5Volume:
        raise UserError(
            f"{path}: found :{dataset} after it, but a {kind.format_name} has no named arrays"
        )
    return kind(path, dataset)


def _refuse_foreign(path: Path) -> None:
    """Raise UserError if the format is known but not supported."""
    if found := foreign(path):
        name, converter = found
        raise UserError(f"{path}: found {name}, which is not read; convert it with {converter}")


def _fits(volume: Volume) -> bool:
    sections, height, width = volume.shape
    free = available_memory()
    return free is None or sections * height * width * volume.dtype.itemsize <= MEMORY_SHARE * free
