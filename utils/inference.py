"""Predict a config's validation volume with a checkpoint, score it, draw it."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch

from dataloader.pairs import check_same_shape
from dataloader.volume import HDF5_DATASET, Volume, binarise
from model.checkpoint import Checkpoint, load_checkpoint, segmentor_from
from utils.command import open_images, open_labels
from utils.config import Config
from utils.errors import writing_to
from utils.evaluation import choose_pairs, choose_windows, predict_on_grid
from utils.metrics import THRESHOLD, DiceJaccard, DiceScores, PooledScores, Scores, SectionScores
from utils.paths import Workspace, shown
from utils.pictures import contours, mask_picture, write_picture
from utils.precision import choose_precision
from utils.prediction import NetworkPredictor
from utils.progress import progress
from utils.resources import peak_memory
from utils.threads import behind
from utils.windows import Windows

MEASURES = {
    "map": "per section, averaged over sections",
    "map_2d": "per section, averaged over sections",
    "map_3d": "pooled over all voxels",
    "dice": "per section, averaged over sections",
}
PREDICTIONS = "preds.hdf"
MASKS = "masks"


class Inference:
    """One model on one volume.

    Args:
        config: names the volume, its labels and the windows.
        workspace: data root and output folder.
        model: name of the folder in ``models/`` that holds the checkpoint.
        checkpoint_file: in that folder.
        device: to predict on.
        say: receives the lines for the user.

    Raises:
        UserError: the checkpoint or the volume is missing or unfit.
    """

    def __init__(
        self,
        config: Config,
        workspace: Workspace,
        model: str,
        checkpoint_file: str,
        device: torch.device,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.say = config, say
        self.checkpoint_path = workspace.models(config.TRAIN.save_path, model) / checkpoint_file
        self.checkpoint: Checkpoint = load_checkpoint(self.checkpoint_path)
        segmentor = segmentor_from(self.checkpoint, self.checkpoint_path)
        self.predictor = NetworkPredictor(
            segmentor.to(device, memory_format=torch.channels_last),
            device,
            choose_precision(config.TEST.precision, device),
        )
        self.volume: Volume = open_images(workspace, config.DATA, "val", keep=False)
        self.raw: Volume = self.volume.original  # on the target's own grid
        self.labels = open_labels(workspace, config.DATA, "val", working=False, keep=False)
        if self.labels is not None:
            check_same_shape(self.raw, self.labels)
        self.windows: Windows = choose_windows(config, self.volume)
        self.pairs = choose_pairs(config, self.volume)
        self.out = workspace.inference(model)
        self.predictions = self.out / PREDICTIONS
        self.notes = ""
        stems = [Path(name).stem for name in self.raw.names]
        self.stems_differ = len(set(stems)) == len(stems)

    def probability(self, index: int) -> np.ndarray:
        """A section's mitochondria probability (H, W) float32, from ``preds.hdf``."""
        with h5py.File(self.predictions) as file:
            return file[HDF5_DATASET][index]

    def predict(self, argmax: bool = False) -> None:
        """Write the probabilities to ``preds.hdf`` (``main``, float32) and a folder's masks as PNG.

        Args:
            argmax: join a section's predictions from several pairs by their maximum, which gives
                the OR of its argmax masks at the threshold; else by their mean, as published.
        """
        with writing_to(self.out):
            (self.out if self.raw.tiled else self.out / MASKS).mkdir(parents=True, exist_ok=True)
            part = self.predictions.with_suffix(".part")
            with (
                h5py.File(part, "w") as file,
                behind(partial(self._write, file)) as write,
            ):
                file.create_dataset(HDF5_DATASET, self.raw.shape, np.float32)
                sections = predict_on_grid(
                    self.predictor,
                    self.volume,
                    self.pairs,
                    self.windows,
                    self.raw.shape[1:],
                    self.config.TEST.batch_size,
                    "max" if argmax else "mean",
                )
                for index, probability in progress(sections, len(self.raw), "section"):
                    write(index, probability)
            part.replace(self.predictions)

    def _write(self, file: h5py.File, index: int, probability: np.ndarray) -> None:
        file[HDF5_DATASET][index] = probability
        if not self.raw.tiled:
            mask = mask_picture(probability >= THRESHOLD)[..., 0]
            write_picture(self.out / MASKS / self.picture_name(index), mask)

    def measure(self, measure: str) -> Scores | DiceJaccard:
        """Score ``preds.hdf``, write ``scores.txt``, leave what to know of the scores in ``notes``.

        Args:
            measure: ``map`` or ``map_2d`` per section, ``map_3d`` pooled, ``dice`` for dice and
                Jaccard.

        Returns:
            The scores; their text is as ``mAP=0.8948, F1=0.8129, MCC=0.8053, IoU=0.6865``.
        """
        kinds = {"map_3d": PooledScores, "dice": DiceScores}
        scores = kinds.get(measure, SectionScores)()
        for index in range(len(self.labels)):
            label = binarise(self.labels.section(index))
            probability = self.probability(index)
            scores.add(probability > THRESHOLD if measure == "dice" else probability, label)
        result = scores.result()
        self.notes = f"{measure}: {MEASURES[measure]}; {scores.tally}"
        if isinstance(scores, PooledScores):
            self.notes += f"; mAP exact to {scores.mAP_bound:.0e}"
        origin = (
            f"checkpoint={self.checkpoint_path.name}, iteration={self.checkpoint.iteration}, "
            f"chosen by: {self.checkpoint.chosen_by}"
        )
        with writing_to(self.out):
            (self.out / "scores.txt").write_text(
                f"{result}\n{self.notes}\n{origin}\n", encoding="utf-8"
            )
        return result

    def draw(self) -> None:
        """Write ``seg_img/``: a folder's sections with contours, an HDF5 volume's masks."""
        folder = self.out / "seg_img"
        with writing_to(folder):
            folder.mkdir(exist_ok=True)
            for index in range(len(self.raw)):
                mask = self.probability(index) >= THRESHOLD
                picture = mask_picture(mask)[..., 0]
                if not self.raw.tiled:
                    label = None if self.labels is None else binarise(self.labels.section(index))
                    picture = contours(self.raw.section(index), mask, label)
                write_picture(folder / self.picture_name(index), picture)

    def picture_name(self, index: int) -> str:
        """The file name of a section's mask or picture: its own stem, if no other has the same."""
        name = self.raw.names[index]
        return f"{Path(name).stem if self.stems_differ else name}.png"

    def run(self, measure: str, show: bool) -> None:
        """Predict, score where there are labels, draw where asked; say so as published."""
        self.say(f"out_path: {shown(self.out)}")
        self.say(
            f"checkpoint: {shown(self.checkpoint_path)}, iteration {self.checkpoint.iteration}, "
            f"chosen by: {self.checkpoint.chosen_by}"
        )
        if self.raw.tiled:
            self._say_tiles()
        self.say("Begin inference...")
        begin = time.perf_counter()
        self.predict(argmax=measure == "dice")
        seconds = time.perf_counter() - begin
        self.say(f"Prediction time (s): {seconds:.2f}")
        pairs = len(self.windows.corners) * len(self.pairs)
        self.say(f"pairs of windows per second: {pairs / seconds:.2f}")
        if self.labels is None:
            path = self.config.DATA.data_dir_val_label
            self.say(f"No labels ({path or 'DATA.data_dir_val_label is not set'}): not scored")
        else:
            names = "dice and Jaccard" if measure == "dice" else "mAP, F1, MCC, and IoU"
            self.say(f"Measure on {names}...")
            begin = time.perf_counter()
            self.say(str(self.measure(measure)))
            self.say(f"Measurement time (s): {time.perf_counter() - begin:.2f}")
            self.say(self.notes)
        if show:
            self.draw()
        self.say(peak_memory(self.predictor.device))
        self.say("Done")

    def _say_tiles(self) -> None:
        (top, bottom), (left, right) = self.windows.padding
        sections, height, width = self.volume.shape
        self.say(f"Load {shown(self.raw.path)}")
        self.say(f"raw shape: {self.raw.shape}")
        self.say(f"padded raw shape: {(sections, height + top + bottom, width + left + right)}")
        self.say(f"the number of sub-volume: {len(self.windows.corners) * len(self.pairs)}")
