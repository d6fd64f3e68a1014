"""TIFF, BigTIFF, OME-TIFF and ImageJ TIFF."""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import tifffile

from dataloader.formats.axes import COLOURS, GREY, RENAME, axis_name, section_axis
from dataloader.formats.base import ArrayVolume, VolumeWriter
from dataloader.formats.voxel_size import PIXEL_RANGE, SizeFound, in_nanometres
from utils.errors import UserError

TIFF_SUFFIXES = (".tif", ".tiff", ".btf", ".tf2", ".tf8")
MOST_COLOURS = 4  # channels of a colour image with alpha
OME_UNIT = "µm"  # default unit in the OME-XML schema
TAG_UNITS = {2: "inch", 3: "cm"}  # values of the tag ResolutionUnit

warnings.filterwarnings("ignore", message=".*reading array from closed file")  # it reopens it
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a broken file raises UserError


class TiffVolume(ArrayVolume):
    """A TIFF, BigTIFF, OME-TIFF or ImageJ TIFF of one or more pages.

    The voxel size comes from the OME or ImageJ metadata. The resolution tags of other files mostly
    describe a printed page; they are used only if they are plausible for electron microscopy.
    """

    kind, format_name = "tiff", "TIFF file"

    def _open(self) -> "_Pages":
        return _Pages(self.path)

    @property
    def sources(self) -> list[Path]:
        """The file, and the other files of a multi-file OME-TIFF."""
        pages = (page for page in self.array.pages if page is not None)
        others = (Path(page.parent.filehandle.path) for page in pages)
        return list(dict.fromkeys([self.path, *others]))

    def _read_voxel_size(self) -> SizeFound | None:
        file = self.array.file
        if file.is_ome:
            return _ome_voxel_size(file.ome_metadata)
        if file.is_imagej:
            return _imagej_voxel_size(file)
        return _tag_voxel_size(file)


class TiffWriter(VolumeWriter):
    """OME-TIFF, uncompressed, BigTIFF if needed. Fiji and napari read its scale."""

    suffix = ".ome.tif"

    def open(self) -> None:
        size = self.spec.voxel_size
        scale = {}
        if size:
            for axis, step in zip("ZYX", size, strict=True):
                scale |= {f"PhysicalSize{axis}": step, f"PhysicalSize{axis}Unit": "nm"}
        self.map = tifffile.memmap(
            self.part,
            shape=self.spec.shape,
            dtype=self.spec.dtype,
            ome=True,
            photometric="minisblack",
            metadata={"axes": "ZYX"} | scale,
        ).reshape(self.spec.shape)

    def write(self, index: int, section: np.ndarray) -> None:
        self.map[index] = section

    def close(self) -> None:
        self.map.flush()
        del self.map


class _Pages:
    """The pages of a TIFF as an array: memory-mapped if contiguous, else read one by one."""

    def __init__(self, path: Path) -> None:
        self.file = tifffile.TiffFile(path)
        len(self.file.pages)  # detects circular page lists, on which series would loop for ever
        if self.file.is_ome:
            _require_files(path, self.file.ome_metadata)
        first, *others = self.file.series
        shape = first.get_shape(False)
        names = [axis_name(name) for name in first.get_axes(squeeze=False)]
        check_one_channel(first.keyframe, path)
        section_axis(names, shape, str(path))
        height, width = (shape[names.index(axis)] for axis in "yx")
        self.dtype, self.pages = first.dtype, list(first.pages)
        if len(self.pages) == 1:  # some programs write each section as a series of its own
            alike = [s for s in others if s.shape == first.shape and s.dtype == first.dtype]
            self.pages += [page for series in alike for page in series.pages]
        if len(self.pages) < len(self.file.pages):
            shapes = " and ".join(str(series.shape) for series in self.file.series[:3])
            raise UserError(
                f"{path}: found several images, of shapes {shapes}, expected one volume; save it "
                "as a separate file"
            )
        self.displayed = displayed(first.keyframe, path)
        mapped = first.dataoffset is not None and first.dtype.isnative and not others
        self.map = self.file.asarray(out="memmap").reshape(-1, height, width) if mapped else None
        self.shape = (len(self.pages) if self.map is None else len(self.map), height, width)
        promised = (self.file.imagej_metadata or {}).get("images", 1) if self.file.is_imagej else 1
        if self.shape[0] < promised:
            raise UserError(f"{path}: cut off after {self.shape[0]} of {promised} pages")

    def __getitem__(self, place: tuple[int, slice, slice]) -> np.ndarray:
        index, rows, columns = place
        if self.map is not None:
            return self.displayed(np.array(self.map[place]))
        page = self.pages[index]
        if page is None:
            raise ValueError("its page is missing")
        return self.displayed(page.asarray().reshape(self.shape[1:])[rows, columns])


def check_one_channel(page: tifffile.TiffPage, where: Path | str) -> None:
    """Raise UserError if a page has more than one channel."""
    channels = page.samplesperpixel
    if channels > 1:
        advice = GREY if channels <= MOST_COLOURS else RENAME
        raise UserError(f"{where}: found {channels} channels, expected one; {advice}")


def displayed(page: tifffile.TiffPage, where: Path | str) -> Callable[[np.ndarray], np.ndarray]:
    """A function that turns stored values of a page into those a viewer displays.

    It inverts pages in which white is zero and applies grey palettes.

    Raises:
        UserError: the page has a colour palette.
    """
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        colours = page.colormap
        if colours is None or (colours != colours[0]).any():
            raise UserError(f"{where}: {COLOURS}")
        greys = colours[0] if colours.max() < 256 else colours[0] >> 8
        table = greys.astype(np.uint8)
        return lambda values: table[values]
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        kind = np.dtype(page.dtype).kind
        if kind == "u":
            white = np.array(2**page.bitspersample - 1, page.dtype)
            return lambda values: white - values
        if kind in "bi":
            return np.invert
    return lambda values: values


def _require_files(path: Path, xml: str) -> None:
    """Raise UserError if another file of a multi-file OME-TIFF is missing."""
    named = {
        element.get("FileName")
        for element in ElementTree.fromstring(xml).iter()
        if element.tag.endswith("}UUID")
    }
    # a renamed file still contains its old name
    missing = sorted(name for name in named if name and not (path.parent / name).is_file())
    if missing and len(named) > 1:
        raise UserError(
            f"{path}: this OME-TIFF has {len(named)} files; {missing[0]} is missing beside it"
        )


def _ome_voxel_size(xml: str) -> SizeFound | None:
    found = (e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels"))
    pixels = next(found, None)
    if pixels is None:
        return None
    steps = [pixels.get(f"PhysicalSize{axis}") for axis in "ZYX"]
    units = [pixels.get(f"PhysicalSize{axis}Unit", OME_UNIT) for axis in "ZYX"]
    return SizeFound.of("zyx", steps, units, "OME metadata")


def _imagej_voxel_size(file: tifffile.TiffFile) -> SizeFound | None:
    metadata = file.imagej_metadata or {}
    unit = metadata.get("unit")
    units = [metadata.get(key, unit) for key in ("zunit", "yunit")] + [unit]
    steps = [metadata.get("spacing"), *_tag_steps(file)]
    return SizeFound.of("zyx", steps, units, "ImageJ metadata")


def _tag_voxel_size(file: tifffile.TiffFile) -> SizeFound | None:
    """In-plane, from the resolution tags; None if not plausible for electron microscopy."""
    tag = file.pages[0].tags.get("ResolutionUnit")
    unit = TAG_UNITS.get(int(tag.value)) if tag else None
    sides = in_nanometres(_tag_steps(file), [unit] * 2)
    if None in sides or not all(PIXEL_RANGE[0] <= side <= PIXEL_RANGE[1] for side in sides):
        return None
    return SizeFound.of("yx", sides, ["nm"] * 2, "resolution tags")


def _tag_steps(file: tifffile.TiffFile) -> list[float | None]:
    """Units per pixel along y and x."""
    steps = []
    for axis in "YX":
        tag = file.pages[0].tags.get(f"{axis}Resolution")
        pixels, units = tag.value if tag else (0, 1)  # a fraction
        steps.append(units / pixels if pixels else None)
    return steps
