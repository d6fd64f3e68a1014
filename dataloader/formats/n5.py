"""The metadata of N5: data sets, levels, axes, voxel sizes.

Axes are listed in the order of ``dimensions``, mostly x, y, z. Three programs' attributes are read:

- N5-viewer and BigDataViewer: ``pixelResolution`` or ``resolution``, ``downsamplingFactors``,
- neuroglancer: ``axes``, ``units``, ``resolution``, ``scales`` of a group of levels s0, s1, ...,
- COSEM (OpenOrganelle): ``transform`` with ``axes``, ``scale`` and ``units``, in the order of
  NumPy, the reverse, unless ``order`` is "F".
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dataloader.formats.axes import axis_names
from dataloader.formats.base import listed, only_one
from dataloader.formats.stores import Store
from dataloader.formats.voxel_size import SizeFound, VoxelSize, from_attributes
from utils.errors import UserError

ATTRIBUTES = "attributes.json"
SUFFIX = ".n5"
UNNAMED = "xyztc"  # the axes of an array that does not name them, as in neuroglancer
FINEST = ("s0", "c0/s0")  # of a group of levels, and of one with a channel (N5-viewer)
SECOND_CHANNEL = "c1/s0"
LEVEL = re.compile(r"s\d+")
MOST_ABOVE = 3  # groups above a data set whose attributes count
Attributes = dict[str, Any]


class DataSet(NamedTuple):
    """A data set of N5.

    Attributes:
        store: its folder.
        own: its attributes.
        above: those of the groups above, the nearest first; empty where there are none.
    """

    store: Store
    own: Attributes
    above: list[Attributes]

    @property
    def names(self) -> list[str]:
        """The names of the axes, see ``axis_names``."""
        count = len(self.own["dimensions"])
        for attributes in (self.own, *self.above):
            if found := axis_names(attributes.get("axes"), count):
                return found
        transform = self._transform
        if transform and (found := axis_names(transform.get("axes"), count)):
            # N5-ij writes x, y, z without an order
            forward = transform.get("order") == "F" or (
                "order" not in transform and found[0] == "x"
            )
            return found if forward else found[::-1]
        return list(UNNAMED[:count]) if count <= len(UNNAMED) else ["other"] * count

    @property
    def voxel_size(self) -> SizeFound | None:
        """From the data set's own attributes, else from those of the groups above."""
        names, transform = self.names, self._transform
        if transform and isinstance(transform.get("scale"), list):
            axes = axis_names(transform.get("axes"), len(transform["scale"]))
            units = transform.get("units")
            if axes and isinstance(units, list) and len(units) == len(axes):
                return SizeFound.of(axes, transform["scale"], units, "attribute transform")
        if found := from_attributes(_mapped(self.own), names):
            return _times(found, names, self.own.get("downsamplingFactors"))
        for attributes in self.above:
            if found := from_attributes(_mapped(attributes), names):
                return _times(found, names, self._factors)
        return None

    @property
    def _transform(self) -> Attributes | None:
        """What COSEM writes into the data set, or into the group of levels for it."""
        own = self.own.get("transform")
        if isinstance(own, dict):
            return own
        for image in (self.above[0].get("multiscales") or []) if self.above else []:
            for level in image.get("datasets") or [] if isinstance(image, dict) else []:
                if isinstance(level, dict) and level.get("path") == self.store.name:
                    return level.get("transform")
        return None

    @property
    def _factors(self) -> list | None:
        """By how much the level is coarser than the sizes of the group say."""
        own = self.own.get("downsamplingFactors")
        if own or not LEVEL.fullmatch(self.store.name):
            return own
        level = int(self.store.name[1:])
        for attributes in self.above:
            for key in ("scales", "downsamplingFactors"):
                factors = attributes.get(key)
                if isinstance(factors, list) and level < len(factors):
                    return factors[level]
        return None


def find_data_set(store: Store, folder: Path | None) -> DataSet:
    """The data set in a folder: its own, the finest level, or the only one below.

    Args:
        store: the folder.
        folder: where it is on disc; None: at an address, where nothing is searched for.

    Raises:
        UserError: there is none, or there are several.
    """
    own = _attributes(store)
    if "dimensions" in own:
        return _described(store, own)
    for name in FINEST:
        level = _attributes(store.below(name))
        if "dimensions" not in level:
            continue
        if name != FINEST[0] and "dimensions" in _attributes(store.below(SECOND_CHANNEL)):
            raise UserError(
                f"{store.where}: found several channels, c0, c1, ...; name one, such as "
                f"{store.where}/c0"
            )
        return _described(store.below(name), level)
    if folder is None:
        raise UserError(
            f"{store.where}: found no N5 data set, as {ATTRIBUTES} gives no dimensions, and there "
            f"is no level {FINEST[0]}; expected the address of a data set, such as "
            f"{store.where}/em/s0"
        )
    name = only_one(folder, _finest(dict(_data_sets(store, folder))))
    return find_data_set(store.below(name), folder / name)


def is_inside(folder: Path) -> bool:
    """Whether a local folder is a container or lies in one, by its name."""
    whole = folder.resolve()
    return any(place.suffix == SUFFIX for place in (whole, *whole.parents))


def has_levels(store: Store) -> bool:
    """Whether a folder holds levels of a data set."""
    return any("dimensions" in _attributes(store.below(name)) for name in FINEST)


def require_name(store: Store, name: str, folder: Path) -> None:
    """Raise UserError if a container has no folder of this name."""
    if not (folder / name).is_dir():
        found = _finest(dict(_data_sets(store, folder)))
        raise UserError(f"{store.where}: no data set {name}; found {listed(found)}")


def _described(store: Store, own: Attributes) -> DataSet:
    above, group = [], store
    while len(above) < MOST_ABOVE and not group.name.endswith(SUFFIX):
        group = group.above
        if group is None or not group.name:
            break
        above.append(_attributes(group))
    return DataSet(store, own, above)


def _attributes(store: Store) -> Attributes:
    return store.metadata([ATTRIBUTES]).get(ATTRIBUTES, {})


def _data_sets(store: Store, folder: Path, above: str = "") -> Iterator[tuple[str, tuple]]:
    """Names and shapes of the data sets below a local folder; not those in a data set."""
    for inside in sorted(path for path in folder.iterdir() if path.is_dir()):
        name = f"{above}{inside.name}"
        own = _attributes(store.below(inside.name))
        if "dimensions" in own:
            yield name, tuple(own["dimensions"])
        else:
            yield from _data_sets(store.below(inside.name), inside, f"{name}/")


def _finest(shapes: dict[str, tuple]) -> dict[str, tuple]:
    """Without the coarser levels of a group, which is then named itself."""
    found = {}
    for name, shape in shapes.items():
        group, _, last = name.rpartition("/")
        coarser = LEVEL.fullmatch(last) and last != FINEST[0]
        if group and LEVEL.fullmatch(last) and f"{group}/{FINEST[0]}" in shapes:
            if not coarser:
                found[group] = shape
        else:
            found[name] = shape
    return found


def _mapped(attributes: Attributes) -> Attributes:
    """The attributes, with a bare list in ``pixelResolution`` as N5-viewer's object."""
    pixel = attributes.get("pixelResolution")
    if not isinstance(pixel, list):
        return attributes
    unit = attributes.get("unit")
    return attributes | {"pixelResolution": {"dimensions": pixel, "unit": unit}}


def _times(found: SizeFound, names: Sequence[str], factors: Any) -> SizeFound:
    """A voxel size times the downsampling factors of a level."""
    if found.size is None or not isinstance(factors, list) or len(factors) != len(names):
        return found
    by = dict(zip(names, factors, strict=True))
    sides = zip("zyx", found.size, strict=True)
    sizes = {axis: side and side * by.get(axis, 1) for axis, side in sides}
    return found._replace(size=VoxelSize.of(sizes))
