"""Find the section, row and column axes of an array, by the names of its axes if it has any."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from utils.errors import UserError, warn

NAMES = {  # names that programs give to axes
    "z": ("z", "depth", "plane", "planes", "pln", "section", "sections", "slice", "slices"),
    "y": ("y", "height", "row", "rows"),
    "x": ("x", "width", "col", "cols", "column", "columns"),
    "c": ("c", "channel", "channels", "ch", "band", "bands"),
    "s": ("s", "rgb", "rgba", "sample", "samples"),
    "t": ("t", "time", "times", "frame", "frames"),
}
KINDS = {"c": "channel", "s": "channel", "t": "time"}
SPACE = "zyx"
FEW_COLUMNS = 4  # a last axis no longer than this holds channels, not columns
DUPLICATE = "save one as a separate file (Fiji: Image > Duplicate)"
RENAME = (
    "if they are sections, call the axis z (Fiji: Image > Properties, slices; tifffile: "
    "metadata={'axes': 'ZYX'})"
)
GREY = "convert it to grey (Fiji: Image > Type > 8-bit)"
COLOURS = (
    "found a palette of colours, expected grey values; convert images to grey (Fiji: Image > Type "
    "> 8-bit), save labels without a palette"
)


def axis_name(name: Any) -> str:
    """One of z, y, x, c (channel), s (colour sample), t (time), or else the name in lower case."""
    if isinstance(name, Mapping):  # OME-Zarr from 0.4 on; vigra
        name = name.get("name", name.get("key", ""))
    name = (name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)).strip()
    lower = name.lower()
    return next((axis for axis, names in NAMES.items() if lower in names), lower)


def axis_names(names: Any, count: int) -> list[str] | None:
    """The canonical names of an array's axes; None if they are unusable.

    Args:
        names: as in the file: a list, "zyx" or "z, y, x".
        count: number of axes.
    """
    if isinstance(names, bytes):
        names = names.decode("utf-8", "replace")
    if isinstance(names, str):
        names = names.split(",") if "," in names else list(names.strip())
    if not isinstance(names, Iterable):
        return None
    found = [axis_name(name) for name in names]
    usable = len(found) == count and found.count("y") == found.count("x") == 1
    return found if usable and found.count("z") <= 1 else None


def names_in(attributes: Mapping[str, Any], count: int) -> list[str] | None:
    """Axis names from the attributes of an array, as xarray, funlib and this project write them."""
    for key in ("_ARRAY_DIMENSIONS", "axes", "axis_names", "dimension_names", "axis_labels"):
        if key in attributes and (found := axis_names(attributes[key], count)):
            return found
    return None


def guessed_names(shape: Sequence[int], where: str) -> list[str]:
    """The axes of an array without names: (sections, height, width), others of length 1.

    Raises:
        UserError: there are too few axes, or too many longer than 1.
    """
    count = len(shape)
    names = ["other"] * count
    own = list(range(count))
    if count >= 3 and shape[-1] == 1:  # a channel
        own.pop()
    elif count == 3 and shape[-1] <= FEW_COLUMNS < min(shape[:2]) // 4:
        names[-1] = "s"
        own.pop()
    while len(own) > 3:
        single = next((axis for axis in own[:-2] if shape[axis] == 1), None)
        if single is None:
            raise UserError(
                f"{where}: found shape {tuple(shape)}, expected (sections, height, width) of grey "
                "values; its axes have no names"
            )
        own.remove(single)
    if len(own) < 2:
        raise UserError(
            f"{where}: found shape {tuple(shape)}, expected (sections, height, width) of grey "
            "values"
        )
    for axis, name in zip(own, SPACE[-len(own) :], strict=True):
        names[axis] = name
    return names


def section_axis(names: Sequence[str], shape: Sequence[int], where: str) -> int | None:
    """The axis along which sections follow each other; None if there is one section.

    Raises:
        UserError: a time or channel axis is longer than 1.
    """
    own = names.index("z") if "z" in names else None
    longer = [axis for axis, name in enumerate(names) if name not in (*SPACE,) and shape[axis] != 1]
    if not longer:
        return own
    single = own is None or shape[own] == 1
    if single and len(longer) == 1 and names[longer[0]] not in ("c", "s"):
        if names[longer[0]] == "t":
            warn(f"{where}: found {shape[longer[0]]} time points of one section, read as sections")
        return longer[0]
    name, length = names[longer[0]], shape[longer[0]]
    kind = KINDS.get(name, f"{name!r}")
    advice = GREY if name == "s" else RENAME if single else DUPLICATE
    raise UserError(
        f"{where}: found shape {tuple(shape)}, expected one {kind}, not {length}; {advice}"
    )


class Stack:
    """View of an array with axes in any order as (sections, height, width).

    Args:
        array: has a shape and a dtype, and supports indexing with integers and slices.
        names: of its axes, from ``axis_names``; None: it has none.
        where: path of the array, for messages.

    Raises:
        UserError: the axes are not those of a volume.
    """

    def __init__(self, array: Any, names: Sequence[str] | None, where: str) -> None:
        self.array, self.dtype = array, array.dtype
        self.names = list(names or guessed_names(array.shape, where))
        self.z = section_axis(self.names, array.shape, where)
        self.y, self.x = self.names.index("y"), self.names.index("x")
        lengths = [array.shape[axis] for axis in (self.y, self.x)]
        self.shape = (1 if self.z is None else array.shape[self.z], *lengths)

    def __getitem__(self, place: tuple[int, slice, slice]) -> np.ndarray:
        index, rows, columns = place
        whole: list[int | slice] = [0] * len(self.array.shape)
        if self.z is not None:
            whole[self.z] = index
        whole[self.y], whole[self.x] = rows, columns
        part = np.asarray(self.array[tuple(whole)])
        return part if self.y < self.x else part.T
