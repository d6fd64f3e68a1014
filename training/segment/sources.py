"""The labelled volumes that a network learns from."""

from pathlib import Path

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize, unlikeness
from dataloader.published.present import LabelledVolume, present_volumes
from training.new_config import inspect
from training.propose_config import VolumeFacts, sliced_thrice
from training.segment.options import Options
from utils.errors import UserError
from utils.paths import absolute, shown

FETCH = "python scripts/prepare_data.py vnc --download"


def choose_sources(options: Options, target: VolumeFacts) -> list[VolumeFacts]:
    """Inspect the labelled volumes to learn from; says which they are.

    These are all of ``--source``, else of the published ones. For thick sections that is one volume
    of each data set, as several tissues teach more (docs/beyond.md). For thin ones it is the volume
    that is nearest to the target in voxel size.

    Raises:
        UserError: there is none, one is invalid, or its voxel size is unknown.
    """
    chosen = _given(options) if options.source else _published(options, target)
    sizes = [_known_size(volume) for volume in chosen]
    return [
        inspect("source", str(volume.images), str(volume.labels), size.in_plane, size.z)
        for volume, size in zip(chosen, sizes, strict=True)
    ]


def _published(options: Options, target: VolumeFacts) -> list[LabelledVolume]:
    own = absolute(target.images.path)
    present = present_volumes(options.workspace.data)
    volumes = [volume for volume in present if volume.images.resolve() != own]
    if not volumes:
        raise UserError(
            f"{shown(options.workspace.data)}: found no labelled volume to learn from; fetch VNC "
            f"III by `{FETCH}`, or give --source RAW LABELS (or --quick, which needs none)"
        )
    if sliced_thrice(target, None):
        wanted = VoxelSize(target.spacing, target.pixel, target.pixel)
        return [min(volumes, key=lambda volume: unlikeness(volume.voxel_size, wanted))]
    first: dict[str, LabelledVolume] = {}
    for volume in volumes:
        first.setdefault(volume.title, volume)
    return list(first.values())


def _given(options: Options) -> list[LabelledVolume]:
    """The volumes of ``--source``; their sizes by the options, the catalogue or the files."""
    known = {volume.images.resolve(): volume for volume in present_volumes(options.workspace.data)}
    unknown = [None] * len(options.source)
    pixels = options.pixel_size_source or unknown
    spacings = options.section_spacing_source or unknown
    volumes = []
    for (raw, labels), pixel, spacing in zip(options.source, pixels, spacings, strict=True):
        path = absolute(raw)
        published = known.get(path)
        own = published.voxel_size if published else open_volume(path, keep=False).voxel_size
        own = own or VoxelSize(None, None, None)
        pixel = pixel or own.in_plane
        size = VoxelSize(spacing or own.z, pixel, pixel)
        volumes.append(LabelledVolume(shown(path), path, Path(labels), size))
    return volumes


def _known_size(volume: LabelledVolume) -> VoxelSize:
    """The voxel size; raises UserError if a part of it is unknown."""
    size = volume.voxel_size
    options = (("--pixel-size-source", size.in_plane), ("--section-spacing-source", size.z))
    missing = [f"{option} NM" for option, value in options if value is None]
    if missing:
        raise UserError(
            f"{volume.title}: its files give no voxel size; add {' and '.join(missing)}, once for "
            "each --source"
        )
    return size
