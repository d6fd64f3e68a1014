"""One training iteration: the published method (DA-ISC), and plain supervision.

training/rounds.py decides which step runs when; training/learner.py updates the networks.
"""

import torch
from torch import Tensor

from loss.adversarial import discriminator_loss, fooling_loss, probabilities
from loss.consistency import consistency_loss, rampup
from loss.supervised import supervised_losses
from model.segmentor import PairLogits
from training.learner import Learner, Networks, Segment
from utils.config.schema import TrainSettings
from utils.ignore import IGNORE


class SupervisedStep:
    """Supervision alone: on the source, or on the target with the pseudo labels of a round.

    Args:
        segment: the segmentor.
        learner: updates it.
        domain: ``source`` or ``target``; part of the names of the losses.
    """

    def __init__(self, segment: Segment, learner: Learner, domain: str = "source") -> None:
        self.segment, self.learner, self.domain = segment, learner, domain

    def __call__(self, iteration: int, images: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Train on one batch; arguments and result as in ``DaIscStep``."""
        self.learner.start(iteration)
        losses = supervised_losses(*self.segment(images), masks, self.domain)
        sum(losses.values()).backward()
        return self.learner.finish(iteration, losses)


class DaIscStep:
    """Supervision on the source, consistency and adversarial alignment on the target.

        loss = supervised(source) + consistency_weight x consistency(target)
             + weight_adv_spatial x fooling(masks) + weight_adv_temporal x fooling(residual)

    The formula of each term is in loss/. Source: Huang et al., MICCAI 2022.

    Args:
        networks: the segmentor and both discriminators.
        learner: updates them.
        train: weights of the losses.
        warmup: number of iterations before the first of these steps; the ramp starts after them.
    """

    def __init__(
        self, networks: Networks, learner: Learner, train: TrainSettings, warmup: int = 0
    ) -> None:
        self.segment, self.learner, self.train = networks.segmentor, learner, train
        self.warmup = warmup
        alignments = (  # name, discriminator, the maps of PairLogits it sees, weight of its loss
            ("seg", networks.disc_seg, slice(0, 2), train.weight_adv_spatial),
            ("residual", networks.disc_residual, slice(2, 3), train.weight_adv_temporal),
        )
        self.alignments = [alignment for alignment in alignments if alignment[3]]

    def __call__(
        self,
        iteration: int,
        source: Tensor,
        masks: Tensor,
        target: Tensor,
        ignored: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Train on one batch of each domain.

        Args:
            iteration: counted from 1.
            source, target: pairs of sections (B, 2, H, W), float in [0, 1].
            masks: of the source (B, 2, H, W), int64: 0, 1, or 255 where a pixel is ignored.
            ignored: of the target (B, 2, H, W), bool; left out of the consistency loss.

        Returns:
            Detached scalars: the weighted losses, the accuracies of the discriminators, and what
            ``Learner.finish`` adds.
        """
        self.learner.start(iteration)
        logits = self.segment(torch.cat([source, target]))  # InstanceNorm: pairs do not mix
        of_source = PairLogits(*(maps[: len(source)] for maps in logits))
        of_target = PairLogits(*(maps[len(source) :] for maps in logits))

        losses = supervised_losses(*of_source, masks, "source")
        ramped = self.consistency_weight(iteration)
        if self.train.cross_loss_source:
            losses["consistency_source"] = ramped * consistency_loss(*of_source, masks == IGNORE)
        if self.train.cross_loss_target:
            losses["consistency_target"] = ramped * consistency_loss(*of_target, ignored)
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
        """``weight_cross`` x exp(-5 (1 - t)^2), with t from 0 to 1 over ``rampup_iters``."""
        if not self.train.consistency_weight_rampup:
            return self.train.weight_cross
        return self.train.weight_cross * rampup(iteration - self.warmup, self.train.rampup_iters)
