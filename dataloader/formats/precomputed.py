"""The metadata of neuroglancer precomputed volumes: scales, axes, voxel sizes."""

import math
from typing import Any, NamedTuple

from dataloader.formats.stores import Store
from dataloader.formats.voxel_size import SizeFound
from utils.errors import UserError

INFO = "info"
AXES = ("x", "y", "z", "c")


class Scale(NamedTuple):
    """A scale of a volume.

    Attributes:
        store: the folder of the volume.
        info: its metadata.
        index: of the scale.
    """

    store: Store
    info: dict[str, Any]
    index: int

    @property
    def key(self) -> str:
        """The folder of the scale's chunks."""
        return str(self.info["scales"][self.index].get("key"))

    @property
    def voxel_size(self) -> SizeFound | None:
        """``resolution``, which is in nm."""
        where = f"resolution of the scale {self.key}"
        sizes = self.info["scales"][self.index].get("resolution")
        return SizeFound.of("xyz", sizes, ["nm"] * 3, where)


def is_volume(info: dict[str, Any]) -> bool:
    """Whether this is the metadata of a volume, not of meshes, skeletons or annotations."""
    scales = info.get("scales")
    return isinstance(scales, list) and all(_is_scale(scale) for scale in scales) and scales != []


def find_scale(store: Store, info: dict[str, Any], key: str | None) -> Scale:
    """The scale of this key, else the finest.

    Raises:
        UserError: there is none of this key, or the volume has several channels.
    """
    channels = info.get("num_channels", 1)
    if channels != 1:
        raise UserError(f"{store.where}: found {channels} channels, expected one")
    scales = info["scales"]
    keys = [str(scale.get("key")) for scale in scales]
    if key is None:
        volumes = [math.prod(scale["resolution"]) for scale in scales]
        return Scale(store, info, volumes.index(min(volumes)))
    if key.strip("/") not in keys:
        raise UserError(f"{store.where}: no scale {key}; found {', '.join(keys)}")
    return Scale(store, info, keys.index(key.strip("/")))


def _is_scale(scale: Any) -> bool:
    sizes = scale.get("resolution") if isinstance(scale, dict) else None
    return (
        isinstance(sizes, list)
        and len(sizes) == 3
        and all(isinstance(size, int | float) for size in sizes)
    )
