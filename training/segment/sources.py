"""The labelled volume that a network learns from."""

from pathlib import Path

from dataloader.formats.opening import open_volume
from dataloader.formats.voxel_size import VoxelSize, unlikeness
from dataloader.published.present import LabelledVolume, present_volumes
from training.new_config import inspect
from training.propose_config import VolumeFacts
from training.segment.options import Options
from utils.errors import UserError
from utils.paths import shown

FETCH = "python scripts/prepare_data.py vnc --download"


def choose_source(options: Options, target: VolumeFacts) -> VolumeFacts:
    """Inspect the labelled volume whose voxel size is nearest to the target's; says which it is.

    Raises:
        UserError: there is none, or the size of one of several is unknown.
    """
    given = [_given(*pair, options) for pair in options.source]
    own = target.images.path.resolve()
    present = present_volumes(options.workspace.data)
    volumes = given or [volume for volume in present if volume.images.resolve() != own]
    if not volumes:
        raise UserError(
            f"{shown(options.workspace.data)}: found no labelled volume to learn from; fetch VNC "
            f"III by `{FETCH}`, or give --source RAW LABELS (or --quick, which needs none)"
        )
    pixel = target.pixel
    wanted = VoxelSize(target.spacing, pixel, pixel)
    chosen = min(volumes, key=lambda volume: unlikeness(_size(volume, options), wanted))
    size = _size(chosen, options)
    facts = inspect("source", str(chosen.images), str(chosen.labels), size.in_plane, size.z)
    if len(volumes) > 1:
        print(f"  {chosen.title}: the nearest in voxel size of {len(volumes)} labelled volumes")
    return facts


def _given(raw: str, labels: str, options: Options) -> LabelledVolume:
    """A volume of ``--source``; its size is known if it is a published one."""
    path = Path(raw).resolve()
    for known in present_volumes(options.workspace.data):
        if known.images.resolve() == path:
            return known._replace(labels=Path(labels))
    return LabelledVolume(shown(path), path, Path(labels), None)


def _size(volume: LabelledVolume, options: Options) -> VoxelSize:
    """Voxel size from the options, the catalogue or the file.

    Raises:
        UserError: it is unknown.
    """
    known = volume.voxel_size or open_volume(volume.images, keep=False).voxel_size
    known = known or VoxelSize(None, None, None)
    pixel = options.pixel_size_source or known.in_plane
    spacing = options.section_spacing_source or known.z
    missing = [
        f"{option} NM"
        for option, value in (
            ("--pixel-size-source", pixel),
            ("--section-spacing-source", spacing),
        )
        if value is None
    ]
    if missing:
        raise UserError(
            f"{volume.title}: its files give no voxel size; add {' and '.join(missing)}"
        )
    return VoxelSize(spacing, pixel, pixel)
