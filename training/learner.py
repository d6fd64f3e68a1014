"""Networks with optimisers, learning rates, clipping and the average of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from loss.adversarial import Discriminator
from model.segmentor import PairLogits
from training.averaging import WeightAverage, choose_decay
from training.optimizer import build_optimizer, load_optimizer, rate_factor
from utils.config.schema import Config
from utils.runtime.distributed import Group

MAX_GRAD_NORM = 1.0  # of each network
Segment = Callable[[Tensor], PairLogits]  # pairs (B, 2, H, W) in [0, 1] -> logits


class Networks(NamedTuple):
    """The three networks as functions, in the precision of the run, compiled if that is faster."""

    segmentor: Segment
    disc_seg: Discriminator  # sees the softmax maps of both masks
    disc_residual: Discriminator  # sees the softmax maps of the residual


class Learner:
    """Updates the networks, and the average of the segmentor's weights.

    An iteration consists of ``start``, one or more backward passes, and ``finish``. None of them
    waits for the device.

    Args:
        networks: by name: ``segmentor``, and ``disc_seg`` and ``disc_residual`` if they are used.
        config: of the run: learning rates and their decay, optimiser, averaging.
        group: processes that share each batch and keep equal weights.
    """

    def __init__(
        self, networks: dict[str, nn.Module], config: Config, group: Group | None = None
    ) -> None:
        self.networks, self.config, self.group = networks, config, group or Group()
        train = config.TRAIN
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
        """Set the learning rates of an iteration, and clear the gradients."""
        factor = rate_factor(self.config, iteration)
        for name, optimizer in self.optimizers.items():
            optimizer.param_groups[0]["lr"] = self.base_rates[name] * factor
            optimizer.zero_grad(set_to_none=True)

    def finish(self, iteration: int, report: dict[str, Tensor]) -> dict[str, Tensor]:
        """Clip the gradients of each network to a norm of 1, update the networks and the average.

        Args:
            iteration: counted from 1.
            report: scalars of this process: losses, accuracies.

        Returns:
            The report as detached means over all processes, with the gradient norm of each network
            before clipping, and ``skipped``: 1 if any of these is not finite (weights and
            optimisers are then left unchanged), else 0.
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
            optimizer.found_inf = report[
                "skipped"
            ]  # as GradScaler does: 1 makes the step change nothing
            optimizer.step()
        self.average.update(self.networks["segmentor"], iteration, report["skipped"])
        return report

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Let gradients flow through a network without computing those of its weights."""
        self.networks[name].requires_grad_(False)
        yield
        self.networks[name].requires_grad_(True)

    @property
    def learning_rates(self) -> dict[str, float]:
        """The current learning rate of each network."""
        return {name: opt.param_groups[0]["lr"] for name, opt in self.optimizers.items()}

    def state_dict(self) -> dict[str, dict]:
        """The states of the networks, the optimisers and the average."""
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
    """1 if any scalar is not finite, else 0; float32, on the device of the scalars."""
    values = torch.stack([value.float() for value in report.values()])
    return values.isfinite().all().logical_not().float()
