"""One iteration: DA-ISC as published, and plain supervision.

Which step runs when is decided in training/rounds.py; training/learner.py updates the networks.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from loss.adversarial import Discriminator, discriminator_loss, fooling_loss, probabilities
from loss.consistency import consistency_loss, rampup
from loss.supervised import supervised_losses
from model.segmentor import PairLogits
from training.learner import Learner, Networks, Segment
from utils.config.schema import TrainSettings
from utils.ignore import IGNORE


class SupervisedStep:
    """Learn from labelled pairs: of the source, or of a target labelled in rounds.

    Args:
        segment: the segmentor, in the run's precision.
        learner: updates it.
        domain: ``source`` or ``target``, in the names of the losses.
    """

    def __init__(self, segment: Segment, learner: Learner, domain: str = "source") -> None:
        self.segment, self.learner, self.domain = segment, learner, domain

    def __call__(self, iteration: int, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Learn from one batch, see ``DaIscStep``."""
        self.learner.start(iteration)
        losses = supervised_losses(*self.segment(images), masks, self.domain)
        sum(losses.values()).backward()
        return self.learner.finish(iteration, losses)


class Alignment(NamedTuple):
    """What a discriminator aligns between the domains."""

    name: str
    discriminate: Discriminator
    maps: slice  # of PairLogits
    weight: float  # of its adversarial loss


class DaIscStep:
    """Supervision on the source, consistency and alignment on the target.

    Source: Huang et al., MICCAI 2022.

    Args:
        networks: in the run's precision.
        learner: updates them.
        train: weights of the losses, ramp of the consistency's.
        warmup: iterations on the source alone before these; the ramp starts after them.
    """

    def __init__(
        self, networks: Networks, learner: Learner, train: TrainSettings, warmup: int = 0
    ) -> None:
        self.segment, self.learner, self.train = networks.segmentor, learner, train
        self.warmup = warmup
        alignments = (
            Alignment("seg", networks.disc_seg, slice(0, 2), train.weight_adv_spatial),
            Alignment("residual", networks.disc_residual, slice(2, 3), train.weight_adv_temporal),
        )
        self.alignments = [alignment for alignment in alignments if alignment.weight]

    def __call__(
        self,
        iteration: int,
        source: Tensor,
        masks: Tensor,
        target: Tensor,
        ignored: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Learn from one batch of each domain.

        Args:
            iteration: counts from 1.
            source, target: pairs (B, 2, H, W) in [0, 1].
            masks: of the source, (B, 2, H, W), int64 of 0 and 1, 255 where pixels do not count.
            ignored: pixels of the target that do not count, (B, 2, H, W), bool; None: all count.
                The discriminators see them all the same.

        Returns:
            Detached scalars on the device: every loss with its weight applied, the accuracies of
            the discriminators, and what ``Learner.finish`` adds.
        """
        self.learner.start(iteration)
        logits = self.segment(torch.cat([source, target]))  # InstanceNorm: pairs do not mix
        of_source = PairLogits(*(maps[: len(source)] for maps in logits))
        of_target = PairLogits(*(maps[len(source) :] for maps in logits))

        losses = supervised_losses(*of_source, masks, "source")
        consistency_weight = self.consistency_weight(iteration)
        if self.train.cross_loss_source:
            consistency = consistency_loss(*of_source, masks == IGNORE)
            losses["consistency_source"] = consistency_weight * consistency
        if self.train.cross_loss_target:
            consistency = consistency_loss(*of_target, ignored)
            losses["consistency_target"] = consistency_weight * consistency
        for name, discriminate, maps, weight in self.alignments:
            with self.learner.frozen(f"disc_{name}"):
                fooling = fooling_loss(discriminate, probabilities(of_target[maps]))
            losses[f"adv_target_{name}"] = weight * fooling
        sum(losses.values()).backward()

        report = dict(losses)
        for name, discriminate, maps, _ in self.alignments:
            both = (probabilities(domain[maps]) for domain in (of_source, of_target))
            loss, accuracy = discriminator_loss(discriminate, *both)
            loss.backward()
            report |= {f"disc_{name}": loss, f"disc_accuracy_{name}": accuracy}
        return self.learner.finish(iteration, report)

    def consistency_weight(self, iteration: int) -> float:
        """``weight_cross`` x exp(-5 (1 - t)^2), t from 0 to 1 over ``rampup_iters``."""
        if not self.train.consistency_weight_rampup:
            return self.train.weight_cross
        return self.train.weight_cross * rampup(iteration - self.warmup, self.train.rampup_iters)
