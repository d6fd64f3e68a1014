"""The metadata of Zarr 2 and 3 at an address, which the zarr package does not read there."""

from typing import Any, NamedTuple

from dataloader.formats.axes import axis_names, names_in
from dataloader.formats.base import listed
from dataloader.formats.ngff import Level, levels
from dataloader.formats.stores import Store
from dataloader.formats.voxel_size import SizeFound, from_attributes
from utils.errors import UserError

FILES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
BIOFORMATS = "bioformats2raw.layout"  # of a store whose images are 0, 1, ...


class Node(NamedTuple):
    """An array or a group.

    Attributes:
        store: its folder.
        driver: of tensorstore.
        array: metadata of the array; None: it is a group.
        attributes: of the user.
        arrays: names and shapes of all arrays below, if the store lists them.
        images: names of all images below, if the store lists them.
    """

    store: Store
    driver: str
    array: dict[str, Any] | None
    attributes: dict[str, Any]
    arrays: dict[str, tuple]
    images: list[str]


class ZarrArray(NamedTuple):
    """An array to read.

    Attributes:
        node: the array.
        level: of which image it is; None: of none.
    """

    node: Node
    level: Level | None

    @property
    def names(self) -> list[str] | None:
        """The names of the axes, see ``axis_names``; None: they have none."""
        array, count = self.node.array, len(self.node.array["shape"])
        if self.level is not None and (found := self.level.names(count)):
            return found
        own = array.get("dimension_names")
        return (axis_names(own, count) if own else None) or names_in(self.node.attributes, count)

    @property
    def voxel_size(self) -> SizeFound | None:
        """From the image's metadata, else from the array's attributes."""
        names = self.names
        if self.level is None:
            return from_attributes(self.node.attributes, names)
        return self.level.voxel_size(names or [])


def find_array(node: Node) -> ZarrArray:
    """The array, the finest level of the image, or the only image or array that is listed.

    Raises:
        UserError: there is none, or there are several.
    """
    if node.array is not None:
        above = node.store.above
        group = above and read_node(above.metadata(FILES[:-1]), above)
        own = levels(group.attributes).get(node.store.name) if group else None
        return ZarrArray(node, own)
    where = node.store.where
    for name, level in levels(node.attributes).items():
        return ZarrArray(_below(node, name, where), level)
    names = ["0"] if BIOFORMATS in node.attributes else node.images or list(node.arrays)
    if BIOFORMATS in node.attributes and _read(node.store.below("1")) is not None:
        names = ["0", "1", "..."]
    if len(names) != 1:
        found = listed(node.arrays) if node.arrays else ", ".join(names) or "nothing that it lists"
        raise UserError(
            f"{where}: found a Zarr group without an image of its own ({found}); name an array or "
            f"an image in it, such as {where}/{names[0] if names else 'em/s0'}"
        )
    return find_array(_below(node, names[0], where))


def read_node(found: dict[str, dict[str, Any]], store: Store) -> Node | None:
    """An array or a group from those of ``FILES`` that are there; None if it is neither."""
    if (metadata := found.get("zarr.json")) is not None:
        array = metadata if metadata.get("node_type") == "array" else None
        listed_below = (metadata.get("consolidated_metadata") or {}).get("metadata") or {}
        arrays = {
            name: tuple(inner["shape"])
            for name, inner in listed_below.items()
            if inner.get("node_type") == "array"
        }
        images = [name for name, inner in listed_below.items() if levels(_attributes(inner))]
        return Node(store, "zarr3", array, _attributes(metadata), arrays, images)
    array, attributes = found.get(".zarray"), found.get(".zattrs", {})
    if array is None and not {".zgroup", ".zattrs", ".zmetadata"} & set(found):
        return None
    files = found.get(".zmetadata", {}).get("metadata") or {}
    arrays = {
        name.removesuffix("/.zarray"): tuple(inner["shape"])
        for name, inner in files.items()
        if name.endswith("/.zarray")
    }
    images = [
        name.removesuffix("/.zattrs")
        for name, inner in files.items()
        if name.endswith("/.zattrs") and levels(inner)
    ]
    return Node(store, "zarr", array, attributes, arrays, images)


def _attributes(metadata: dict[str, Any]) -> dict[str, Any]:
    return metadata.get("attributes") or {}


def _read(store: Store) -> Node | None:
    return read_node(store.metadata(FILES), store)


def _below(node: Node, name: str, where: str) -> Node:
    inner = _read(node.store.below(name))
    if inner is None:
        raise UserError(f"{where}: its metadata names {name}, but found no Zarr array or group")
    return inner
