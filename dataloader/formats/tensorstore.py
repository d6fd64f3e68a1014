"""N5 and neuroglancer precomputed, from disc or an address; Zarr from an address."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dataloader.formats import n5, precomputed, zarr_metadata
from dataloader.formats.axes import Stack
from dataloader.formats.base import ArrayVolume
from dataloader.formats.stores import LazyArray, Store, reason, store_of
from dataloader.formats.voxel_size import SizeFound
from utils.errors import UserError
from utils.paths import address_of

MARKS = (precomputed.INFO, *zarr_metadata.FILES, n5.ATTRIBUTES)  # what tells the formats
NAMES = {"n5": "N5 store", "precomputed": "precomputed volume", "zarr": "Zarr store"}


class Found(NamedTuple):
    """An array in a store.

    Attributes:
        kind: the format, see ``Volume.kind``.
        store: the folder to open.
        spec: driver of tensorstore and its options.
        names: of the axes; None: they have none.
        voxel_size: in the metadata.
        metadata: all of it, for the fingerprint.
        key: of the scale of a precomputed volume.
    """

    kind: str
    store: Store
    spec: dict[str, Any]
    names: list[str] | None
    voxel_size: SizeFound | None
    metadata: list[Any]
    key: str = ""


class StoreVolume(ArrayVolume):
    """An array that tensorstore reads: chunks as needed, the last ones kept in memory.

    Args:
        path: a local folder of N5 or precomputed, or an address, see ``utils.paths.address_of``.
        dataset: data set of an N5 container, or scale of a precomputed volume.

    Raises:
        UserError: there is no volume, or it cannot be reached.
    """

    format_name = "N5, Zarr or precomputed volume"
    fork_safe = False
    _found: Found | None = None

    def __init__(self, path: Path, dataset: str | None = None) -> None:
        self.address = address_of(path)
        self.remote = self.address is not None
        super().__init__(path, dataset)

    @property
    def where(self) -> str:
        return self.address or super().where

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype.newbyteorder("=")

    @property
    def sources(self) -> list[Path]:
        """The local folder of the array, and the metadata above it; none at an address."""
        if self.remote:
            return []
        folder = Path(self._found.store.spec["path"])
        if self.kind == "precomputed":
            chunks = folder / self._found.key  # missing if all of it is empty
            return [folder / precomputed.INFO, *([chunks] if chunks.is_dir() else [])]
        files = (above / n5.ATTRIBUTES for above in list(folder.parents)[: n5.MOST_ABOVE])
        return [*(file for file in files if file.is_file()), folder]

    def fingerprint(self) -> str:
        """As of other volumes; at an address, of the address and the metadata of the array."""
        if not self.remote:
            return super().fingerprint()
        found = json.dumps([self.address, self._found.metadata], sort_keys=True)
        return hashlib.sha256(found.encode()).hexdigest()

    def _open(self) -> Stack:
        if self._found is None:
            self._found = self._find()
            self.kind = self._found.kind
            if not self.remote:
                self.dataset = self._name_below()
        found = self._found
        try:
            array = LazyArray(found.store.open_array(found.spec))
        except (ValueError, TimeoutError) as error:
            kind = NAMES[found.kind.removeprefix("ome-")]
            raise UserError(
                f"{self.where}: tensorstore cannot open this {kind} ({reason(error)})"
            ) from None
        if array.dtype.kind not in "uifb":
            raise UserError(f"{self.where}: found type {array.dtype}, expected grey values")
        return Stack(array, found.names, self.where)

    def _read_voxel_size(self) -> SizeFound | None:
        return self._found.voxel_size

    @property
    def _folder(self) -> Path:
        return self.path / (self.dataset or "")

    def _find(self) -> Found:
        store, kind = store_of(self.path)
        if not self.remote and self.dataset and not (self.path / precomputed.INFO).is_file():
            n5.require_name(store, self.dataset, self.path)
            store = store.below(self.dataset)
        folder = None if self.remote else self._folder
        marks = store.metadata(MARKS)
        info = marks.get(precomputed.INFO)
        if kind in (None, "precomputed") and info and precomputed.is_volume(info):
            return _of_scale(precomputed.find_scale(store, info, self.dataset))
        node = zarr_metadata.read_node(marks, store)
        if self.remote and kind in (None, "zarr") and node:
            return _of_zarr(zarr_metadata.find_array(node))
        if kind == "n5" or (kind is None and n5.ATTRIBUTES in marks):
            return _of_data_set(n5.find_data_set(store, folder))
        return self._less_obvious(store, kind, marks)

    def _less_obvious(self, store: Store, kind: str | None, marks: dict) -> Found:
        """A scale of a precomputed volume, or an N5 group without attributes."""
        above = store.above
        info = above and above.metadata([precomputed.INFO]).get(precomputed.INFO)
        if kind in (None, "precomputed") and info and precomputed.is_volume(info):
            return _of_scale(precomputed.find_scale(above, info, store.name))
        inside = not self.remote and n5.is_inside(self.path)
        if inside or (self.remote and kind is None and n5.has_levels(store)):
            return _of_data_set(n5.find_data_set(store, self._folder if inside else None))
        what = f"no {NAMES[kind]}" if kind else "no volume"
        there = (
            f"; there is {', '.join(marks)}" if marks else f", as {', '.join(MARKS)} are missing"
        )
        raise UserError(
            f"{self.where}: found {what}{there}; expected an N5 data set, a Zarr array or image, "
            "or a precomputed volume"
        )

    def _name_below(self) -> str | None:
        """The name of the array below the local folder."""
        if self.kind == "precomputed":
            return self.dataset
        top = Store.on_disc(self.path).spec["path"]
        return self._found.store.spec["path"].removeprefix(top).rstrip("/") or None


def _of_data_set(found: n5.DataSet) -> Found:
    metadata = [found.own, *found.above]
    spec = {"driver": "n5"}
    return Found("n5", found.store, spec, found.names, found.voxel_size, metadata)


def _of_scale(found: precomputed.Scale) -> Found:
    spec = {"driver": "neuroglancer_precomputed", "scale_index": found.index}
    axes = list(precomputed.AXES)
    return Found("precomputed", found.store, spec, axes, found.voxel_size, [found.info], found.key)


def _of_zarr(found: zarr_metadata.ZarrArray) -> Found:
    node, level = found.node, found.level
    kind = "zarr" if level is None else "ome-zarr"
    metadata = [node.array, node.attributes, level]
    return Found(kind, node.store, {"driver": node.driver}, found.names, found.voxel_size, metadata)
