"""Networks and what makes them learn; training/steps.py has the methods that use it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loss.adversarial import Discriminator
from model.segmentor import PairLogits
from training.averaging import WeightAverage, choose_decay
from training.optimizer import build_optimizer, load_optimizer
from utils.config.schema import TrainSettings
from utils.runtime.distributed import Group

MAX_GRAD_NORM = 1.0  # of each network
Segment = Callable[[Tensor], PairLogits]  # pairs (B, 2, H, W) in [0, 1] -> logits


class Networks(NamedTuple):
    """The three networks as functions, in the run's precision and compiled where that pays."""

    segmentor: Segment
    disc_seg: Discriminator  # of the softmax maps of both masks
    disc_residual: Discriminator  # of the residual's


class Learner:
    """Networks with their optimisers, and the average of the segmentor's weights.

    An iteration is ``start``, one or more backward passes, ``finish``. Nothing waits for the
    device.

    Args:
        networks: by name: ``segmentor``, and ``disc_seg`` and ``disc_residual`` where they learn.
        train: learning rates and their decay, optimiser, averaging.
        group: processes that share each batch; the networks stay the same on all of them.
    """

    def __init__(
        self, networks: dict[str, nn.Module], train: TrainSettings, group: Group | None = None
    ) -> None:
        self.networks, self.train, self.group = networks, train, group or Group()
        rates = {
            "segmentor": train.learning_rate,
            "disc_seg": train.learning_rate_ms,
            "disc_residual": train.learning_rate_mt,
        }
        self.base_rates = {name: rates[name] for name in networks}
        self.optimizers = {
            name: build_optimizer(
                train.opt_type if name == "segmentor" else "adam", network, rates[name]
            )
            for name, network in networks.items()
        }
        decay = choose_decay(train.average_decay, train.total_iters)
        self.average = WeightAverage(networks["segmentor"], decay)

    def start(self, iteration: int) -> None:
        """Set the learning rates to base x (1 - iteration / total_iters)^power; no gradients."""
        decay = (1 - iteration / self.train.total_iters) ** self.train.power
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.base_rates[name] * decay
            optimizer.zero_grad(set_to_none=True)

    def finish(self, iteration: int, report: dict[str, Tensor]) -> dict[str, Tensor]:
        """Update the networks that have gradients, each clipped to a norm of 1, and the average.

        Args:
            iteration: counts from 1.
            report: scalars of this process: losses, accuracies.

        Returns:
            The report as detached means over all processes, with each network's gradient norm
            before clipping, and ``skipped``: 1 if any of these is not finite, so that weights and
            optimisers stay as they were, else 0.
        """
        networks = {name: net for name, net in self.networks.items() if _has_gradients(net)}
        report = self.group.average({name: value.detach() for name, value in report.items()})
        self.group.average_gradients(networks.values())
        for name, network in networks.items():
            norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRAD_NORM)
            report[f"grad_norm_{name}"] = norm.detach()
        report["skipped"] = not_finite(report)
        for name in networks:
            optimizer = self.optimizers[name]
            optimizer.found_inf = report["skipped"]  # GradScaler's flag: the update does nothing
            optimizer.step()
        self.average.update(self.networks["segmentor"], iteration, report["skipped"])
        return report

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Let gradients pass through a network without reaching its weights."""
        self.networks[name].requires_grad_(False)
        yield
        self.networks[name].requires_grad_(True)

    @property
    def learning_rates(self) -> dict[str, float]:
        """The current learning rate of each network."""
        return {name: opt.param_groups[0]["lr"] for name, opt in self.optimizers.items()}

    def state_dict(self) -> dict[str, dict]:
        """Networks, optimisers and the average, to resume from."""
        return {
            "networks": {name: net.state_dict() for name, net in self.networks.items()},
            "optimizers": {name: opt.state_dict() for name, opt in self.optimizers.items()},
            "average": self.average.network.state_dict(),
        }

    def load_state_dict(self, state: dict[str, dict]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            KeyError, RuntimeError: the networks differ.
            ValueError: the optimisers differ.
        """
        for name, network in self.networks.items():
            network.load_state_dict(state["networks"][name])
            load_optimizer(self.optimizers[name], state["optimizers"][name])
        self.average.network.load_state_dict(state.get("average", state["networks"]["segmentor"]))


def _has_gradients(network: nn.Module) -> bool:
    return next(network.parameters()).grad is not None


def not_finite(report: dict[str, Tensor]) -> Tensor:
    """1 if any scalar is not finite, else 0; float32, on the scalars' device."""
    values = torch.stack([value.float() for value in report.values()])
    return values.isfinite().all().logical_not().float()
