"""Zarr (v2 and v3) and OME-Zarr."""

import math
import os
import re
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from dataloader.formats.axes import Stack, axis_names, names_in
from dataloader.formats.base import CHUNK, ArrayVolume, VolumeWriter, listed, only_one
from dataloader.formats.ngff import Level, levels
from dataloader.formats.voxel_size import SizeFound, VoxelSize, from_attributes
from utils.errors import UserError, warn
from utils.optional import wanted

# a store may contain other files, such as the OME-XML of bioformats2raw
warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
ZARR_MARKS = ("zarr.json", ".zarray", ".zgroup")  # files that make a folder a Zarr store
ZARR_METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")  # files of a group
LEVELS = 4  # largest number of levels of a pyramid
SMALLEST_LEVEL = 128  # pixels; shorter side of the coarsest level
MOST_NAMES = 20  # image names in a message
CHUNK_KEY = re.compile(r"(?:c[./])?(\d+(?:[./]\d+)*)")
MOST_SHARDS = 10_000  # shards whose indices are read to count missing chunks
ABSENT = 2**64 - 1  # offset and length of a chunk that a shard lacks


class ZarrVolume(ArrayVolume):
    """An array of a Zarr store.

    It is the array named, the array at the path itself, the finest level of an OME-Zarr image, of
    the only image in the store (``bioformats2raw``), or the only array with 3 dimensions.

    Axes and voxel size come from the OME-Zarr metadata. Otherwise the axes come from
    ``dimension_names`` or ``_ARRAY_DIMENSIONS``, the voxel size from
    ``voxel_size.from_attributes``.
    """

    kind, format_name = "zarr", "Zarr store"
    _level: Level | None = None

    def _open(self) -> Stack:
        zarr = wanted("zarr", "to read Zarr")
        node = zarr.open(self.path, mode="r")
        if isinstance(node, zarr.Group):
            node = self._choose(zarr, node)
        elif any((self.path.parent / mark).is_file() for mark in ZARR_MARKS):
            self._take_level(zarr.open(self.path.parent, mode="r"), self.path.name)
        if np.dtype(node.dtype).kind not in "uifb":
            raise UserError(f"{self.where}: found type {node.dtype}, expected grey values")
        return Stack(node, self._axes(node), self.where)

    @property
    def sources(self) -> list[Path]:
        """The folder of the array, and the metadata of the groups above it."""
        array = self.path / (self.dataset or "")
        if not array.is_dir():
            return [self.path]
        # if the path is an array itself, the group above describes axes and voxel size
        top = self.path if self.dataset else self.path.parent
        folders = [folder for folder in array.parents if folder.is_relative_to(top)]
        metadata = (folder / name for folder in folders for name in ZARR_METADATA)
        return [*(file for file in metadata if file.is_file()), array]

    def _choose(self, zarr: Any, group: Any) -> Any:
        """Choose the array to read from a group."""
        found = levels(group.attrs)
        if self.dataset is None and not found:
            found = self._image_below(zarr, group)
        named = {name: level for name, level in found.items() if name == self.dataset}
        if self.dataset is None and found:
            named = dict([next(iter(found.items()))])  # the finest comes first
        for name, level in named.items():
            self.kind, self._level, self.dataset = "ome-zarr", level, name
            return group[name]
        members = group.members(max_depth=None)
        arrays = {name: node.shape for name, node in members if isinstance(node, zarr.Array)}
        if self.dataset is None:
            self.dataset = only_one(self.path, arrays)
        node = group.get(self.dataset)
        if isinstance(node, zarr.Group):  # an image below the store's root
            inner = levels(node.attrs) or self._image_below(zarr, node)
            if inner:
                name, level = next(iter(inner.items()))
                self.kind, self._level = "ome-zarr", level
                return node[name]
        if not isinstance(node, zarr.Array):
            raise UserError(f"{self.path}: no array {self.dataset}; found {listed(arrays)}")
        above, _, name = self.dataset.rpartition("/")
        self._take_level(group.get(above) if above else group, name)
        return node

    def _take_level(self, group: Any, name: str) -> None:
        """Remember the image's metadata if the array is a level of an image."""
        level = levels(group.attrs).get(name) if group is not None else None
        if level:
            self.kind, self._level = "ome-zarr", level

    def _image_below(self, zarr: Any, group: Any) -> dict[str, Level]:
        """The levels of the only image in a group, as bioformats2raw writes it.

        The labels of an image do not count as images.

        Raises:
            UserError: there are several images.
        """
        images = {}
        for name, node in _groups(zarr, group):
            if own := levels(node.attrs):
                images[name] = {f"{name}/{level}": found for level, found in own.items()}
        if len(images) > 1:
            first = self.path.name + (f":{self.dataset}/" if self.dataset else ":")
            more = f" and {len(images) - MOST_NAMES} more" if len(images) > MOST_NAMES else ""
            raise UserError(
                f"{self.path}: found several images, {', '.join([*images][:MOST_NAMES])}{more}; "
                f"name one, such as {first}{next(iter(images))}"
            )
        return next(iter(images.values()), {})

    def _axes(self, array: Any) -> list[str] | None:
        count = len(array.shape)
        if self._level is not None and (names := self._level.names(count)):
            return names
        names = getattr(array.metadata, "dimension_names", None)
        return (axis_names(names, count) if names else None) or names_in(array.attrs, count)

    def _read_voxel_size(self) -> SizeFound | None:
        stack = self.array
        if self._level is None:
            return from_attributes(stack.array.attrs, stack.names)
        return self._level.voxel_size(stack.names)

    def _check(self) -> None:
        """Warn of missing chunks."""
        array = self.array.array
        folder = self.path / array.path if array.path else self.path
        missing, chunks = missing_chunks(array, folder)
        if missing:
            warn(
                f"{self.where}: {missing} of {chunks} chunks are missing and read as "
                f"{array.fill_value if array.fill_value is not None else 0}; was it copied "
                "completely?"
            )


class OmeZarrWriter(VolumeWriter):
    """OME-Zarr 0.4 (Zarr v2), which most viewers read, with a pyramid in y and x."""

    suffix = ".ome.zarr"

    def open(self) -> None:
        zarr = wanted("zarr", "to write OME-Zarr")
        sections, height, width = self.spec.shape
        group = zarr.open_group(self.part, mode="w", zarr_format=2)
        self.levels, datasets = [], []
        for level in range(LEVELS):
            step = 2**level
            shape = (sections, -(-height // step), -(-width // step))
            if level and min(shape[1:]) < SMALLEST_LEVEL:
                break
            self.levels.append(
                group.create_array(
                    str(level),
                    shape=shape,
                    dtype=self.spec.dtype,
                    chunks=(1, min(CHUNK, shape[1]), min(CHUNK, shape[2])),
                    chunk_key_encoding={"name": "v2", "separator": "/"},
                    config={"write_empty_chunks": True},  # a missing chunk means a damaged copy
                )
            )
            datasets.append(
                {"path": str(level), "coordinateTransformations": self._transforms(step)}
            )
        unit = {"unit": "nanometer"} if self.spec.voxel_size else {}
        axes = [{"name": name, "type": "space", **unit} for name in "zyx"]
        name = self.path.name.removesuffix(self.suffix)
        scales = {"version": "0.4", "name": name, "axes": axes, "datasets": datasets}
        group.attrs["multiscales"] = [scales]

    def _transforms(self, step: int) -> list[dict]:
        """Scale and translation of a level whose pixels cover ``step`` pixels of the finest."""
        size = self.spec.voxel_size or VoxelSize(1.0, 1.0, 1.0)
        transforms = [{"type": "scale", "scale": [size.z, size.y * step, size.x * step]}]
        moved = (step - 1) / 2 * (0 if self.spec.discrete else 1)  # averaging moves the centre
        z, y, x = self.spec.origin
        moves = [size.z * z, size.y * (y + moved), size.x * (x + moved)]
        if any(moves):
            transforms.append({"type": "translation", "translation": moves})
        return transforms

    def write(self, index: int, section: np.ndarray) -> None:
        for level, array in enumerate(self.levels):
            if level:
                section = section[::2, ::2] if self.spec.discrete else _halved(section)
            array[index] = section

    def close(self) -> None:
        self.levels = []


def _groups(zarr: Any, group: Any, above: str = "", depth: int = 3) -> Iterator[tuple[str, Any]]:
    """Groups below a group with their names, except those below an image."""
    for name, node in sorted(group.groups()):
        path = f"{above}{name}"
        yield path, node
        if depth > 1 and not levels(node.attrs):
            yield from _groups(zarr, node, f"{path}/", depth - 1)


def missing_chunks(array: Any, folder: Path) -> tuple[int, int]:
    """Number of missing chunks of an array, and of all its chunks.

    Args:
        array: a zarr array.
        folder: of the array. If it is not a folder, no chunks count as missing.
    """
    outer = array.shards or array.chunks
    grid = [-(-side // chunk) for side, chunk in zip(array.shape, outer, strict=True)]
    whole = math.prod(
        -(-side // chunk) for side, chunk in zip(array.shape, array.chunks, strict=True)
    )
    if not folder.is_dir() or not grid:
        return 0, whole
    found = {}
    for file in _files(folder):
        key = CHUNK_KEY.fullmatch(file.relative_to(folder).as_posix())
        place = tuple(map(int, re.split(r"[./]", key[1]))) if key else ()
        if len(place) == len(grid) and all(n < most for n, most in zip(place, grid, strict=True)):
            found[place] = file
    if array.shards is None:
        return whole - len(found), whole
    read = found if len(found) <= MOST_SHARDS else {}
    missing = sum(_missing_of_shard(array, place, file) for place, file in read.items())
    absent = (place for place in product(*map(range, grid)) if place not in found)
    return missing + sum(math.prod(_chunks_of_shard(array, place)) for place in absent), whole


def _files(folder: Path) -> Iterator[Path]:
    for above, _, names in os.walk(folder):
        yield from (Path(above) / name for name in names)


def _chunks_of_shard(array: Any, place: tuple[int, ...]) -> tuple[int, ...]:
    """Number of chunks of a shard along each axis, within the array."""
    sides = zip(place, array.shape, array.shards, array.chunks, strict=True)
    return tuple(
        -(-min(shard, side - index * shard) // chunk) for index, side, shard, chunk in sides
    )


def _missing_of_shard(array: Any, place: tuple[int, ...], file: Path) -> int:
    """Number of missing chunks by the index of a shard: pairs of offset and length, uint64."""
    codec = array.metadata.codecs[0]
    names = [type(inner).__name__ for inner in codec.index_codecs]
    if names not in (["BytesCodec"], ["BytesCodec", "Crc32cCodec"]):
        return 0
    counts = [a // b for a, b in zip(array.shards, array.chunks, strict=True)]
    length = 16 * math.prod(counts)
    check = 4 * (len(names) - 1)
    with file.open("rb") as opened:
        if "end" in str(codec.index_location).lower():
            opened.seek(-min(length + check, file.stat().st_size), os.SEEK_END)
        index = opened.read(length)
    if len(index) < length:
        return 0  # damaged: reading it fails later
    present = np.frombuffer(index, "<u8").reshape(*counts, 2)[..., 0] != ABSENT
    within = tuple(slice(0, count) for count in _chunks_of_shard(array, place))
    return int(np.count_nonzero(~present[within]))


def _halved(section: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd border is repeated."""
    height, width = section.shape
    even = np.pad(section, ((0, height % 2), (0, width % 2)), mode="edge").astype(np.float32)
    means = (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4
    return means.astype(section.dtype)
