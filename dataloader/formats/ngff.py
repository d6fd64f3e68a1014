"""The metadata of OME-Zarr images (OME-NGFF 0.1 to 0.5): levels, axes, voxel sizes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dataloader.formats.axes import axis_names
from dataloader.formats.voxel_size import SizeFound

UNNAMED = "tczyx"  # the axes of OME-Zarr 0.1 and 0.2


class Level(NamedTuple):
    """A level of an OME-Zarr image.

    Attributes:
        axes: names or descriptions; may be empty.
        transforms: of the level and of the whole image.
    """

    axes: list
    transforms: list[dict]

    def names(self, count: int) -> list[str] | None:
        """The names of an array's axes, see ``axis_names``.

        Args:
            count: number of axes of the array.
        """
        return axis_names(self.axes or UNNAMED[-count:], count)

    def voxel_size(self, names: Sequence[str]) -> SizeFound | None:
        """The scales of level and image, multiplied, with the units of the axes.

        Args:
            names: of the array's axes.
        """
        count = len(names)
        scales = [t.get("scale") for t in self.transforms if t.get("type") == "scale"]
        scales = [scale for scale in scales if isinstance(scale, list) and len(scale) == count]
        if not scales or len(self.axes) != count:
            return None
        sizes = np.prod(np.array(scales, float), axis=0)
        units = [axis.get("unit") if isinstance(axis, dict) else None for axis in self.axes]
        return SizeFound.of(names, sizes.tolist(), units, "OME-Zarr metadata")


def levels(attributes: Mapping[str, Any]) -> dict[str, Level]:
    """The levels of the image that a Zarr group is, by path, finest first; empty if it is none."""
    ome = attributes.get("ome")
    images = (ome if isinstance(ome, dict) else attributes).get("multiscales")
    if not images:
        return {}
    image = images[0]
    whole = image.get("coordinateTransformations") or []
    axes = image.get("axes") or []
    return {
        level["path"]: Level(axes, [*(level.get("coordinateTransformations") or []), *whole])
        for level in image["datasets"]
    }
