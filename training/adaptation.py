"""One iteration of adaptation: networks, losses and optimisers joined."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loss.adversarial import Discriminator, discriminator_loss, fooling_loss
from loss.consistency import consistency_loss, rampup
from loss.supervised import SUPERVISED, supervised_losses
from model.discriminator import build_discriminator
from model.segmentor import PairLogits, Segmentor
from training.averaging import WeightAverage, choose_decay
from utils.config.schema import BeyondSettings, TrainSettings
from utils.runtime.device import choose_precision, compiled, computing_in, widened
from utils.runtime.distributed import Group

ADAM_BETAS = (0.9, 0.99)
MAX_GRAD_NORM = 1.0


class Alignment(NamedTuple):
    """What a discriminator aligns between the domains.

    Attributes:
        discriminator: of softmax maps.
        maps: which of ``PairLogits`` it sees.
        weight: of its adversarial loss.
        learning_rate: of its own.
    """

    discriminator: nn.Module
    maps: slice
    weight: float
    learning_rate: float


class AdaptationStep:
    """Owns the segmentor, the two discriminators and their optimisers; one call is one iteration.

    Works in the dtype and on the device of its modules, their convolutions in ``precision``.

    Args:
        segmentor: reads pairs (B, 2, H, W), returns ``PairLogits``.
        disc_seg: discriminator of mask maps.
        disc_residual: discriminator of residual maps.
        settings: weights, schedules and learning rates.
        adapt: False leaves the target and the discriminators out altogether. With the
            adversarial and the consistency weights at 0 the segmentor learns the same, sooner.
        precision: bfloat16, or float32: as the modules are.
        compile: let ``torch.compile`` join the segmentor's kernels.
        beyond: what the paper does not have.
        group: processes with batches of the same size each; the step is as one on all of them.
    """

    def __init__(
        self,
        segmentor: nn.Module,
        disc_seg: nn.Module,
        disc_residual: nn.Module,
        settings: TrainSettings,
        adapt: bool = True,
        precision: torch.dtype = torch.float32,
        compile: bool = False,
        beyond: BeyondSettings | None = None,
        group: Group | None = None,
    ) -> None:
        self.beyond = beyond or BeyondSettings()
        self.group = group or Group()
        self.segmentor, self.disc_seg, self.disc_residual = segmentor, disc_seg, disc_residual
        self.settings = settings
        self.adapt = adapt
        # iterations on the source alone
        self.begin = round(self.beyond.begin * settings.total_iters)
        self.precision = precision
        self.run_segmentor = compiled(segmentor) if compile else segmentor
        self.average = WeightAverage(
            segmentor, choose_decay(settings.average_decay, settings.total_iters)
        )
        seg = Alignment(
            disc_seg, slice(0, 2), settings.weight_adv_spatial, settings.learning_rate_ms
        )
        residual = Alignment(
            disc_residual, slice(2, 3), settings.weight_adv_temporal, settings.learning_rate_mt
        )
        self.alignments = {
            name: alignment
            for name, alignment in (("seg", seg), ("residual", residual))
            if adapt and alignment.weight
        }
        self.networks = {"segmentor": segmentor}
        self.base_rates = {"segmentor": settings.learning_rate}
        for name, alignment in self.alignments.items():
            self.networks[f"disc_{name}"] = alignment.discriminator
            self.base_rates[f"disc_{name}"] = alignment.learning_rate
        self.optimizers = {
            name: torch.optim.Adam(
                net.parameters(), lr=self.base_rates[name], betas=ADAM_BETAS, fused=True
            )
            for name, net in self.networks.items()
        }

    @classmethod
    def build(
        cls,
        settings: TrainSettings,
        width: int,
        device: torch.device,
        beyond: BeyondSettings | None = None,
        group: Group | None = None,
    ) -> "AdaptationStep":
        """New networks of a width on a device; source-only where no adaptation weight is set."""
        networks = (Segmentor(width), build_discriminator(width), build_discriminator(width))
        if beyond and beyond.head_prior:
            networks[0].begin_at(beyond.head_prior)
        return cls(
            *(net.to(device, memory_format=torch.channels_last) for net in networks),
            settings,
            adapt=settings.adapts,
            precision=choose_precision(settings.precision, device),
            compile=settings.compiles(device),
            beyond=beyond,
            group=group,
        )

    def __call__(
        self,
        iteration: int,
        source: Tensor | None,
        masks: Tensor | None,
        target: Tensor | None,
        target_masks: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Learn from one batch of source pairs and one of target pairs.

        Args:
            iteration: counts from 1.
            source: source pairs (B, 2, H, W) in [0, 1]; None, with their masks: only the target
                is learned from.
            masks: their masks (B, 2, H, W), int64 of 0 and 1.
            target: target pairs (B, 2, H, W) in [0, 1].
            target_masks: pseudo labels made in rounds, as ``masks``; None: the target is learned
                from by consistency and alignment, if at all.

        Returns:
            Detached scalars, on the device: every loss with its weight applied, gradient norms
            before clipping, accuracies of the discriminators, and ``skipped``: 1 if any of these
            is not finite, so that weights and optimisers stay as they were, else 0.
        """
        self.set_learning_rates(iteration)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

        # One pass for both domains: InstanceNorm keeps the pairs of a batch apart.
        adapts = self.adapts(iteration, target_masks)
        pairs = [source] * (source is not None) + [target] * adapts
        logits = self.segment(torch.cat(pairs))
        count = 0 if source is None else len(source)
        source_logits = PairLogits(*(maps[:count] for maps in logits))
        target_logits = PairLogits(*(maps[count:] for maps in logits))

        losses = self.source_losses(iteration, source_logits, masks)
        if adapts and target_masks is not None:
            losses |= self.labelled_losses(iteration, target_logits, target_masks)
        elif adapts:
            losses |= self.target_losses(iteration, target_logits)
        sum(losses.values()).backward()

        report, learning = dict(losses), ["segmentor"]
        if adapts and self.alignments:
            disc_losses, accuracies = self.discriminator_losses(source_logits, target_logits)
            sum(disc_losses.values()).backward()
            report |= disc_losses | accuracies
            learning = list(self.networks)
        return self.update(iteration, report, learning)

    def update(
        self, iteration: int, report: dict[str, Tensor], learning: Iterable[str]
    ) -> dict[str, Tensor]:
        """Let networks make a step by their gradients, and the average follow the segmentor.

        Args:
            iteration: counts from 1.
            report: losses and accuracies of this process.
            learning: names of the networks.

        Returns:
            The report over all processes, with the gradients' norms and ``skipped``.
        """
        networks = {name: self.networks[name] for name in learning}
        report = self.group.average({name: value.detach() for name, value in report.items()})
        self.group.average_gradients(networks.values())
        for name, network in networks.items():
            norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
            report[f"grad_norm_{name}"] = norm.detach()
        report["skipped"] = not_finite(report)
        for name in networks:
            optimizer = self.optimizers[name]
            optimizer.found_inf = report["skipped"]  # as GradScaler tells it: changes nothing then
            optimizer.step()
        self.average.update(self.segmentor, iteration, report["skipped"])
        return report

    def adapts(self, iteration: int, target_masks: Tensor | None) -> bool:
        """Whether an iteration learns from the target."""
        labelled = target_masks is not None or not self.beyond.rounds
        return self.adapt and iteration > self.begin and labelled

    def source_losses(
        self, iteration: int, logits: PairLogits, masks: Tensor | None
    ) -> dict[str, Tensor]:
        """Supervised losses and, where the settings ask for it, consistency on the source.

        All are 0 where there is no source.
        """
        if masks is None:
            return dict.fromkeys(SUPERVISED, logits.current.new_zeros(()))
        losses = supervised_losses(*logits, masks)
        if self.settings.cross_loss_source:
            weight = self.consistency_weight(iteration)
            losses["consistency_source"] = weight * consistency_loss(*logits)
        return losses

    def target_losses(self, iteration: int, logits: PairLogits) -> dict[str, Tensor]:
        """Weighted consistency and adversarial losses, the discriminators frozen."""
        losses = {}
        if self.settings.cross_loss_target:
            weight = self.consistency_weight(iteration)
            losses["consistency_target"] = weight * consistency_loss(*logits)
        for name, (discriminator, maps, weight, _) in self.alignments.items():
            discriminator.requires_grad_(False)
            seen = [part.softmax(1) for part in logits[maps]]
            losses[f"adv_target_{name}"] = weight * fooling_loss(self.judge(discriminator), seen)
            discriminator.requires_grad_(True)
        return losses

    def labelled_losses(
        self, iteration: int, logits: PairLogits, masks: Tensor
    ) -> dict[str, Tensor]:
        """The supervised losses of the target on pseudo labels made in a round, summed.

        Args:
            iteration: counts from 1.
            logits: of the target.
            masks: pseudo labels (B, 2, H, W), int64 of 0 and 1.
        """
        loss = sum(supervised_losses(*logits, masks).values())
        return {"consistency_target": self.consistency_weight(iteration) * loss}

    def discriminator_losses(
        self, source: PairLogits, target: PairLogits
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Losses of the discriminators on detached maps, and their accuracies in [0, 1]."""
        losses, accuracies = {}, {}
        for name, (discriminator, maps, *_) in self.alignments.items():
            seen = (
                [part.detach().softmax(1) for part in logits[maps]] for logits in (source, target)
            )
            found = discriminator_loss(self.judge(discriminator), *seen)
            losses[f"disc_{name}"], accuracies[f"disc_accuracy_{name}"] = found
        return losses, accuracies

    def segment(self, pairs: Tensor, network: nn.Module | None = None) -> PairLogits:
        """The logits of pairs, by the segmentor or another network like it.

        They are computed in the run's precision, and float32 at least.
        """
        with computing_in(self.precision, pairs.device):
            logits = (self.run_segmentor if network is None else network)(pairs)
        return PairLogits(*map(widened, logits))

    def judge(self, discriminator: nn.Module) -> Discriminator:
        """A discriminator in the run's precision, its logits in float32 at least."""

        def logits(maps: Tensor) -> Tensor:
            with computing_in(self.precision, maps.device):
                return widened(discriminator(maps))

        return logits

    def consistency_weight(self, iteration: int) -> float:
        """``weight_cross``, ramped up where the settings say so, from ``begin`` on."""
        if not self.settings.consistency_weight_rampup:
            return self.settings.weight_cross
        done = iteration - self.begin
        return self.settings.weight_cross * rampup(done, self.settings.rampup_iters)

    def set_learning_rates(self, iteration: int) -> None:
        """base x (1 - it / total_iters)^power for each optimiser; it counts from 1."""
        decay = (1 - iteration / self.settings.total_iters) ** self.settings.power
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = self.base_rates[name] * decay

    @property
    def learning_rates(self) -> dict[str, float]:
        """The learning rate each network's optimiser has now."""
        return {name: opt.param_groups[0]["lr"] for name, opt in self.optimizers.items()}

    def state_dict(self) -> dict[str, dict]:
        """Networks, optimisers and the segmentor's average, to go on with a run."""
        return {
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
            "average": self.average.network.state_dict(),
        }

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Undo ``state_dict``; raises KeyError or RuntimeError where the networks differ."""
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            self.optimizers[name].load_state_dict(state["optimizers"][name])
        self.average.network.load_state_dict(state.get("average", state["networks"]["segmentor"]))


def not_finite(report: dict[str, Tensor]) -> Tensor:
    """1 where a scalar is not finite, else 0; float32, on the device of the scalars."""
    values = torch.stack([value.float() for value in report.values()])
    return values.isfinite().all().logical_not().float()
