"""From a path in a config to the volume it means."""

from pathlib import Path
from typing import NamedTuple

from dataloader.formats.arrays import (
    HDF5_SUFFIXES,
    MRC_SUFFIXES,
    NIFTI_SUFFIXES,
    TIFF_SUFFIXES,
    ZARR_MARKS,
    Hdf5Volume,
    MrcVolume,
    NiftiVolume,
    TiffVolume,
    ZarrVolume,
)
from dataloader.formats.folder import FolderVolume, read_names
from dataloader.volume import KeptVolume, MaskVolume, ResampledVolume, Volume
from utils.errors import UserError
from utils.runtime.memory import available_memory

FILES = {
    Hdf5Volume: HDF5_SUFFIXES,
    TiffVolume: TIFF_SUFFIXES,
    MrcVolume: MRC_SUFFIXES,
    NiftiVolume: NIFTI_SUFFIXES,
}
EXPECTED = (
    "a folder of sections, an HDF5, TIFF, MRC or NIfTI file, or a Zarr store; file:name for an "
    "array in it"
)
KEEP_SHARE = 0.25  # of the memory that is free: a larger volume is read as needed


class Place(NamedTuple):
    """Where a volume lies.

    Attributes:
        path: folder, file or store.
        dataset: name of the array in it, if one was given.
    """

    path: Path
    dataset: str | None = None


def open_volume(
    path: Path,
    list_file: Path | None = None,
    scale: float = 1.0,
    masks: bool = False,
    keep: bool = True,
) -> Volume:
    """The volume at a path.

    Args:
        path: a folder of sections, an HDF5, TIFF, MRC or NIfTI file, or a Zarr store; with
            ``:name`` for an array in it. The suffix of an HDF5 file may be left out.
        list_file: text file naming the sections of a folder to use, one a line.
        scale: resample to so many pixels per pixel.
        masks: the volume holds labels, to be read as masks of 0 and 1.
        keep: in memory, if it takes no more than a quarter of what is free; else sections are read
            as needed.

    Raises:
        UserError: nothing there, or nothing readable.
    """
    place = find_volume(path)
    if place is None:
        raise UserError(f"{path}: not found; expected {EXPECTED}")
    volume = _open(place, list_file)
    if masks:
        volume = MaskVolume(volume)
    if scale != 1.0:
        volume = ResampledVolume(volume, scale)
    return KeptVolume(volume) if keep and _fits(volume) else volume


def find_volume(path: Path) -> Place | None:
    """Where the volume lies that a path means; None: nowhere."""
    for candidate in (path, *(path.with_name(path.name + suffix) for suffix in HDF5_SUFFIXES)):
        if candidate.exists():
            return Place(candidate)
    file, colon, dataset = str(path).rpartition(":")
    if colon and dataset and Path(file).name:
        place = find_volume(Path(file))
        return place and Place(place.path, dataset)
    return None


def is_section_folder(path: Path) -> bool:
    """Whether the volume at a path is a folder of sections, and not a file or a Zarr store."""
    is_zarr = any((path / mark).is_file() for mark in ZARR_MARKS) or path.suffix == ".zarr"
    return path.is_dir() and not is_zarr


def _open(place: Place, list_file: Path | None) -> Volume:
    path, dataset = place
    if is_section_folder(path):
        return FolderVolume(path, read_names(list_file))
    if path.is_dir():
        return ZarrVolume(path, dataset)
    kind = next((kind for kind, ends in FILES.items() if path.name.lower().endswith(ends)), None)
    if kind is None:
        raise UserError(f"{path}: unknown format; expected {EXPECTED}")
    if path.stat().st_size == 0:
        raise UserError(f"{path}: an empty file; was it copied whole?")
    if dataset and kind is not Hdf5Volume:
        raise UserError(f"{path}: found :{dataset} after it, but a {kind.format} has no names")
    return kind(path, dataset)


def _fits(volume: Volume) -> bool:
    sections, height, width = volume.shape
    free = available_memory()
    size = sections * height * width * volume.section(0).dtype.itemsize
    return free is None or size <= KEEP_SHARE * free
