"""Self-training on the target: pseudo labels that say how sure they are.

A labeller (the network itself, or the average of its weights, the teacher) sees the target plain
and gives for both sections the probabilities p, and r that their masks differ:

    q_current   = p_auxiliary (1 - r) + r (1 - p_auxiliary)      XOR of probabilities
    q_auxiliary = p_current   (1 - r) + r (1 - p_current)
    label       = (p + q) / 2 >= 1/2,    weight = 1 - |p - q|
    loss        = mean of weight x CE(student, label), of both sections

q is what the other section says through the residual; with probabilities of 0 and 1 it is the hard
XOR of Huang et al., MICCAI 2022. The teacher is that of Tarvainen and Valpola, NeurIPS 2017; of
each class the surer part alone may count, as in Zou et al., *Class-balanced self-training*, ECCV
2018.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model.segmentor import PairLogits


class PseudoLabels(NamedTuple):
    """Labels of a batch of sections, (B, H, W) int64, and their weights in [0, 1], (B, H, W)."""

    labels: Tensor
    weights: Tensor


def xor_probability(one: Tensor, other: Tensor) -> Tensor:
    """Probability that one of two independent events happens, not both."""
    return one * (1 - other) + other * (1 - one)


@torch.no_grad()
def soft_pseudo_labels(
    current: Tensor, auxiliary: Tensor, residual: Tensor, sure_fraction: float = 1.0
) -> tuple[PseudoLabels, PseudoLabels]:
    """Pseudo labels of current and auxiliary.

    Args:
        current, auxiliary, residual: the labeller's logits (B, 2, H, W).
        sure_fraction: part of each class's pixels in the batch that counts, the surest.
    """
    p_current, p_auxiliary, r = (x.softmax(1)[:, 1] for x in (current, auxiliary, residual))
    labels = []
    for p, other in ((p_current, p_auxiliary), (p_auxiliary, p_current)):
        q = xor_probability(other, r)
        joined, weights = (p + q) / 2, 1 - (p - q).abs()
        masks = joined >= 0.5
        if sure_fraction < 1:
            weights = weights * surest((joined - 0.5).abs(), masks, sure_fraction)
        labels.append(PseudoLabels(masks.long(), weights))
    return labels[0], labels[1]


def surest(certainty: Tensor, masks: Tensor, fraction: float) -> Tensor:
    """Whether each pixel is among the surer ``fraction`` of its class in the batch, as floats."""
    kept = torch.zeros_like(certainty)
    for value in (False, True):
        members = masks == value
        if members.any():
            # kthvalue, as quantile takes 16 million values at most
            least = members.sum() - (fraction * members.sum()).round().long()
            values = certainty[members]
            bound = values.kthvalue(int(least) + 1).values if int(least) < len(values) else 2.0
            kept += members * (certainty >= bound)
    return kept


def self_training_loss(
    current: Tensor, auxiliary: Tensor, labels: tuple[PseudoLabels, PseudoLabels]
) -> Tensor:
    """Weighted cross entropy of both of the student's masks, logits (B, 2, H, W), summed."""
    return weighted_cross_entropy(current, labels[0]) + weighted_cross_entropy(auxiliary, labels[1])


def residual_labels(labels: tuple[PseudoLabels, PseudoLabels]) -> PseudoLabels:
    """Where the pseudo labels of both sections differ, as sure as the less sure of the two."""
    one, other = labels
    return PseudoLabels(one.labels ^ other.labels, torch.minimum(one.weights, other.weights))


def weighted_cross_entropy(logits: Tensor, labels: PseudoLabels) -> Tensor:
    """Mean over all pixels of weight x cross entropy."""
    return (labels.weights * F.cross_entropy(logits, labels.labels, reduction="none")).mean()


def twin_loss(one: PairLogits, other: PairLogits) -> Tensor:
    """Mean squared difference of the probabilities in two views of the same pairs, summed over
    the masks of both sections (Wang et al., *MaskTwins*, ICML 2025)."""
    return sum(
        F.mse_loss(a.softmax(1)[:, 1], b.softmax(1)[:, 1])
        for a, b in zip(one[:2], other[:2], strict=True)
    )
