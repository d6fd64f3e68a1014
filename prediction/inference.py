"""What an inference works with: a model, a volume, and the folder for its results."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch

from dataloader.formats.base import VolumeSpec, VolumeWriter
from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.formats.registry import WRITERS
from dataloader.formats.voxel_size import VoxelSize
from dataloader.pairs import check_same_shape
from dataloader.partial_labels import labels_to_score
from dataloader.roles import as_trained, open_images, open_labels, voxel_size
from dataloader.volume import Volume
from model.checkpoint import MODEL, Checkpoint, load_checkpoint, segmentor_from
from prediction.orthoplane import SlicingAxis, slicing_axes
from prediction.outputs import PREDICTIONS, PROBABILITY
from prediction.predictor import FlippedPredictor, NetworkPredictor, PairPredictor
from prediction.threshold import read_threshold
from utils.config.schema import Config
from utils.ignore import ignoring
from utils.paths import Workspace
from utils.runtime.device import choose_precision
from utils.runtime.distributed import Group


class Request(NamedTuple):
    """What to predict with.

    Attributes:
        model: folder in ``models/`` that holds the checkpoint.
        checkpoint: file in that folder.
        output_format: of masks, probabilities and instances, a key of ``WRITERS``; None: that of
            the volume.
        folder: in ``inference/``, for the results; None: that of the model's name.
    """

    model: str
    checkpoint: str = MODEL
    output_format: str | None = None
    folder: str | None = None


@dataclass(frozen=True)
class Inference:
    """A model, a volume, and where results go; made by ``open_inference``.

    Attributes:
        config: names the volume, its labels and the windows.
        workspace: data root and output folder.
        model: name of the model's folder.
        checkpoint_path: file of the checkpoint.
        checkpoint: its content.
        network: the model, on its device and in its precision.
        predictor: the network, averaged over flips where ``TEST.flips`` is on.
        volume: the sections at the working pixel size.
        labels: their masks on the volume's own grid; None without labels.
        voxel_size: None where it is unknown.
        axes: the slicing axes to predict along, that of the volume's own sections first.
        out: folder for the results.
        output_format: of masks, probabilities and instances.
        group: the processes that share the sections; the main one does everything else.
        say: prints a line for the user.
    """

    config: Config
    workspace: Workspace
    model: str
    checkpoint_path: Path
    checkpoint: Checkpoint
    network: NetworkPredictor
    predictor: PairPredictor
    volume: Volume
    labels: Volume | None
    voxel_size: VoxelSize | None
    axes: list[SlicingAxis]
    out: Path
    output_format: str
    group: Group
    say: Callable[[str], None]

    @property
    def raw(self) -> Volume:
        """The sections on the volume's own grid."""
        return self.volume.original

    @property
    def predictions(self) -> Path:
        """``preds.hdf``."""
        return self.out / PREDICTIONS

    @property
    def averages(self) -> bool:
        """Whether predictions are averaged over slicing axes or neighbouring sections."""
        return len(self.axes) > 1 or self.axes[0].count > 1

    def probability(self, index: int | tuple[slice, slice, slice]) -> np.ndarray:
        """The mitochondria probability of a section (H, W) or box, float32, from ``preds.hdf``."""
        with h5py.File(self.predictions) as file:
            return file[HDF5_DATASET][index]

    @property
    def threshold(self) -> float:
        """The probability from which a pixel is mitochondria, once all are predicted."""
        return read_threshold(self.predictions)

    def label(self, index: int) -> np.ndarray:
        """A section's mask of 0 and 1, 255 where pixels are ignored or blank."""
        return ignoring(self.labels.section(index), self.volume.own_blank(index))

    def picture_name(self, index: int) -> str:
        """The file name of a section's mask or picture."""
        return f"{Path(self.raw.names[index]).stem}.png"

    def writer(self, stem: str, dtype: type) -> VolumeWriter:
        """A writer of sections, beside ``preds.hdf``, on the volume's own grid."""
        names = [self.picture_name(index) for index in range(len(self.raw))]
        discrete = stem != PROBABILITY
        raw = self.raw
        spec = VolumeSpec(raw.shape, dtype, self.voxel_size, names, discrete, raw.origin)
        return WRITERS[self.output_format](self.out, stem, spec)


def open_inference(
    config: Config,
    workspace: Workspace,
    request: Request,
    device: torch.device,
    group: Group | None = None,
    say: Callable[[str], None] = print,
) -> Inference:
    """Load the model and open the volume.

    Args:
        config: names the volume, its labels and the windows.
        workspace: data root and output folder.
        request: the model, and the format of the results.
        device: to predict on.
        group: the processes that share the sections; None: this one alone.
        say: prints a line for the user.

    Raises:
        UserError: the checkpoint or the volume is missing or invalid.
    """
    path = workspace.models(config.TRAIN.save_path, request.model) / request.checkpoint
    checkpoint = load_checkpoint(path)
    segmentor = segmentor_from(checkpoint, path).to(device, memory_format=torch.channels_last)
    network = NetworkPredictor(segmentor, device, choose_precision(config.TEST.precision, device))
    data = as_trained(config.DATA, checkpoint.pixel_size)
    volume = open_images(workspace, data, "val", keep=False)
    labels = open_labels(workspace, data, "val", working=False, keep=False)
    if labels is not None:
        labels = labels_to_score(labels, volume.original)
        check_same_shape(volume.original, labels)
    out = workspace.inference(request.folder or request.model)
    return Inference(
        config=config,
        workspace=workspace,
        model=request.model,
        checkpoint_path=path,
        checkpoint=checkpoint,
        network=network,
        predictor=FlippedPredictor(network) if config.TEST.flips else network,
        volume=volume,
        labels=labels,
        voxel_size=voxel_size(data, volume.original),
        axes=slicing_axes(config, volume, "val", out),
        out=out,
        output_format=request.output_format or volume.original.kind,
        group=group or Group(),
        say=say,
    )
