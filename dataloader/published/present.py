"""The labelled volumes of the published data sets that lie under a data root."""

from pathlib import Path
from typing import NamedTuple

from dataloader.formats.opening import find_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.published.catalogue import DATA_SETS


class LabelledVolume(NamedTuple):
    """A volume with labels.

    Attributes:
        title: of the data set.
        images, labels: paths.
        voxel_size: of its sections.
    """

    title: str
    images: Path
    labels: Path
    voxel_size: VoxelSize


def present_volumes(root: Path) -> list[LabelledVolume]:
    """The volumes whose images and labels both lie under a data root."""
    volumes = [
        LabelledVolume(data.title, root / volume.images, root / volume.masks, data.voxel_size)
        for data in DATA_SETS.values()
        for volume in data.volumes
    ]
    return [volume for volume in volumes if _lies_there(volume.images, volume.labels)]


def _lies_there(*paths: Path) -> bool:
    """Whether all paths exist; an empty folder does not count."""
    places = [find_volume(path) for path in paths]
    return all(
        place is not None and not (place.path.is_dir() and not any(place.path.iterdir()))
        for place in places
    )
