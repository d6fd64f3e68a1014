"""The reader and the writer of each format."""

from pathlib import Path

from dataloader.formats import n5, precomputed
from dataloader.formats.base import ArrayVolume, VolumeWriter
from dataloader.formats.folder import IMAGE_SUFFIXES, FolderWriter, section_files
from dataloader.formats.hdf5 import HDF5_SUFFIXES, Hdf5Volume, Hdf5Writer
from dataloader.formats.mrc import MRC_SUFFIXES, MrcVolume, MrcWriter
from dataloader.formats.nifti import NIFTI_SUFFIXES, NiftiVolume, NiftiWriter
from dataloader.formats.tiff import TIFF_SUFFIXES, TiffVolume, TiffWriter
from dataloader.formats.zarr import ZARR_MARKS, OmeZarrWriter

READERS: dict[type[ArrayVolume], tuple[str, ...]] = {  # of files, by suffix
    Hdf5Volume: HDF5_SUFFIXES,
    TiffVolume: TIFF_SUFFIXES,
    MrcVolume: MRC_SUFFIXES,
    NiftiVolume: NIFTI_SUFFIXES,
}
WRITERS: dict[str, type[VolumeWriter]] = {
    "folder": FolderWriter,
    "tiff": TiffWriter,
    "hdf5": Hdf5Writer,
    "zarr": OmeZarrWriter,
    "ome-zarr": OmeZarrWriter,
    "mrc": MrcWriter,
    "nifti": NiftiWriter,
    # read only: what is made of such a volume is
    "n5": OmeZarrWriter,
    "precomputed": OmeZarrWriter,
}
FIJI = "Fiji (File > Import > Bio-Formats, then save as TIFF)"
FOREIGN = {  # formats that are not read: suffix, name, converter
    ".dm3": ("a DigitalMicrograph file (DM3)", f"{FIJI} or IMOD's dm2mrc"),
    ".dm4": ("a DigitalMicrograph file (DM4)", f"{FIJI} or IMOD's dm2mrc"),
    ".czi": ("a Zeiss file (CZI)", FIJI),
    ".lif": ("a Leica file (LIF)", FIJI),
    ".nd2": ("a Nikon file (ND2)", FIJI),
    ".oir": ("an Olympus file (OIR)", FIJI),
    ".lsm": ("a Zeiss file (LSM)", FIJI),
    ".emd": ("an EMD file", f"{FIJI}; if it is HDF5, rename it and read FILE.h5:DATASET"),
    ".ser": ("a TIA file (SER)", FIJI),
    ".ims": ("an Imaris file (IMS)", FIJI),
    ".nrrd": ("an NRRD file", "ITK-SNAP or 3D Slicer, which save NIfTI, or Fiji, which saves TIFF"),
    ".nhdr": ("an NRRD file", "ITK-SNAP or 3D Slicer, which save NIfTI, or Fiji, which saves TIFF"),
    ".mha": ("a MetaImage file", "ITK-SNAP or 3D Slicer, which save NIfTI"),
    ".mhd": ("a MetaImage file", "ITK-SNAP or 3D Slicer, which save NIfTI"),
    ".hdr": ("an Analyze file", "ITK-SNAP or 3D Slicer, which save NIfTI"),
    ".mat": ("a MATLAB file (MAT)", "MATLAB's imwrite or h5create, as TIFF or HDF5"),
    ".npy": ("a NumPy file", "tifffile.imwrite('v.tif', numpy.load('v.npy'))"),
    ".npz": ("a NumPy file", "tifffile.imwrite('v.tif', numpy.load('v.npz')[NAME])"),
    ".am": ("an Amira file", "Amira (File > Export, as TIFF) or Fiji (File > Open)"),
    ".raw": ("raw numbers without a header", "Fiji (File > Import > Raw, then save as TIFF)"),
    ".svs": ("a slide (SVS)", FIJI),
    ".jp2": ("a JPEG 2000 image", "Fiji (save as TIFF)"),
    ".wkw": ("a webknossos file (WKW)", "webknossos, which exports TIFF and Zarr"),
    ".zip": ("an archive", "unzip"),
    ".gz": ("a compressed file", "gunzip"),
}


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr store or a part of one."""
    return folder.suffix == ".zarr" or any((folder / mark).is_file() for mark in ZARR_MARKS)


def is_chunked(folder: Path) -> bool:
    """Whether a folder is N5, a part of it, or a precomputed volume or one of its scales."""
    whole = folder.resolve()
    marks = (whole / n5.ATTRIBUTES, whole / precomputed.INFO, whole.parent / precomputed.INFO)
    found = n5.is_inside(folder) or any(mark.is_file() for mark in marks)
    return found and not is_zarr(folder) and not section_files(folder)


def reader_of(path: Path) -> type[ArrayVolume] | None:
    """The reader of a file, by its name; None if there is none."""
    name = path.name.lower()
    return next((kind for kind, ends in READERS.items() if name.endswith(ends)), None)


def is_image(path: Path) -> bool:
    """Whether a file is a single image, by its name. TIFF files are read as stacks."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def foreign(path: Path) -> tuple[str, str] | None:
    """Name and converter of an unsupported file; None if unknown."""
    return FOREIGN.get(path.suffix.lower())
