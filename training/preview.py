"""A picture of a training pair: input, labels and prediction."""

import numpy as np
import torch
from torch import Tensor

from loss.consistency import pseudo_labels
from loss.supervised import inter_section_residual
from prediction.pictures import training_picture
from training.learner import Segment


@torch.no_grad()
def preview(segment: Segment, batch: dict[str, Tensor]) -> np.ndarray:
    """Draw the first pair of a batch with its labels, or its pseudo labels; RGB, uint8.

    Args:
        segment: the segmentor.
        batch: ``images`` (B, 2, H, W) in [0, 1], and ``masks`` (B, 2, H, W) where there are labels.
    """
    pair = batch["images"][:1]
    with torch.compiler.set_stance("force_eager"):  # do not compile for one pair
        logits = segment(pair)
    if "masks" in batch:
        masks = batch["masks"][:1]
        truth = (masks[0, 0], masks[0, 1], inter_section_residual(masks)[0])
    else:
        truth = (*(labels[0] for labels in pseudo_labels(*logits)), logits.residual[0].argmax(0))
    return training_picture(pair[0], truth, logits)
