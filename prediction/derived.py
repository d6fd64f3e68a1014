"""What is derived from a section's probability when it is final."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from dataloader.formats.base import VolumeWriter
from prediction.inference import Inference
from prediction.outputs import MASKS, PROBABILITY


@dataclass
class Derived:
    """Masks and probabilities in the output format, and a few numbers of each section.

    Attributes:
        threshold: of the masks.
        rows: of ``scores.csv``, by section.
        blank: share of each section that is blank.
        reused: whether a finished ``preds.hdf`` was taken as it was.
    """

    threshold: float
    rows: dict[int, dict[str, float]] = field(default_factory=dict)
    blank: dict[int, float] = field(default_factory=dict)
    reused: bool = False

    def open(self, inference: Inference, stack: ExitStack) -> None:
        """Open the writers; the stack closes them."""
        self.inference = inference
        self.masks: VolumeWriter = stack.enter_context(inference.writer(MASKS, np.uint8))
        self.probabilities: VolumeWriter | None = None
        self.grey = inference.output_format == "folder"  # probabilities as 0 to 255
        if inference.output_format != "hdf5":  # which preds.hdf is
            dtype = np.uint8 if self.grey else np.float32
            self.probabilities = stack.enter_context(inference.writer(PROBABILITY, dtype))

    def add(self, index: int, probability: np.ndarray) -> None:
        """Write what follows from a section's probability (H, W) float32."""
        mask = probability >= self.threshold
        self.masks.write(index, mask.astype(np.uint8) * 255)
        if self.probabilities is not None:
            grey = np.rint(probability * 255).astype(np.uint8) if self.grey else probability
            self.probabilities.write(index, grey)
        self.rows[index] = {"foreground_predicted": float(mask.mean())}
        blank = self.inference.volume.own_blank(index)
        self.blank[index] = 0.0 if blank is None else float(blank.mean())

    @property
    def blank_share(self) -> float:
        """Share of the volume that is blank."""
        return sum(self.blank.values()) / max(1, len(self.blank))
