"""``--view``: raw sections, probabilities, masks, instances and labels as layers of napari."""

from pathlib import Path
from typing import Any

import numpy as np

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize
from dataloader.volume import Volume
from prediction.outputs import PREDICTIONS
from prediction.threshold import Thresholded, read_threshold
from utils.errors import UserError


def require_napari() -> Any:
    """The imported module; raises UserError if it is not installed."""
    try:
        import napari
    except ModuleNotFoundError:
        raise UserError('--view: napari is not installed; pip install "napari[all]"') from None
    return napari


class Lazy:
    """A volume as an array that reads sections when they are shown."""

    def __init__(self, volume: Volume) -> None:
        self.volume, self.shape, self.ndim = volume, volume.shape, 3
        self.dtype = volume.dtype

    def __getitem__(self, place: Any) -> np.ndarray:
        place = place if isinstance(place, tuple) else (place,)
        first, *rest = (*place, *[slice(None)] * (3 - len(place)))
        single = not isinstance(first, slice)
        sections = [int(first)] if single else range(*first.indices(len(self.volume)))
        shown = np.stack([self.volume.section(index) for index in sections])[(slice(None), *rest)]
        return shown[0] if single else shown

    def __len__(self) -> int:
        return len(self.volume)


def add_layers(
    viewer: Any,
    raw: Volume,
    folder: Path,
    labels: Volume | None,
    instances: Path | None,
    voxel_size: VoxelSize | None,
) -> None:
    """Add the layers of a finished inference to a viewer, scaled to µm.

    Args:
        viewer: has ``add_image`` and ``add_labels``, as napari's.
        raw: the sections.
        folder: with ``preds.hdf``.
        labels: masks; None without labels.
        instances: file of the numbered mitochondria; None without them.
        voxel_size: nm; None: voxels are shown as cubes.
    """
    scale = [step / 1000 for step in voxel_size] if voxel_size else [1.0] * 3
    probability = open_volume(folder / PREDICTIONS, keep=False)
    threshold = read_threshold(folder / PREDICTIONS)
    viewer.add_image(Lazy(raw), name="raw", scale=scale)
    viewer.add_image(
        Lazy(probability), name="probability", scale=scale, contrast_limits=(0, 1),
        colormap="magma", opacity=0.4, visible=False,
    )  # fmt: skip
    viewer.add_labels(Lazy(Thresholded(probability, threshold)), name="mask", scale=scale)
    if instances is not None:
        viewer.add_labels(Lazy(open_volume(instances, keep=False)), name="instances", scale=scale)
    if labels is not None:
        viewer.add_labels(Lazy(labels), name="labels", scale=scale, visible=False)
