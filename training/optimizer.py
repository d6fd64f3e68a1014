"""The optimisers of a run, with the published settings, and the decay of its learning rates."""

from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from utils.config.schema import Config

ADAM_BETAS = (0.9, 0.99)
SGD_MOMENTUM, SGD_WEIGHT_DECAY = 0.9, 5e-4


def build_optimizer(kind: Literal["adam", "sgd"], network: nn.Module, rate: float) -> Optimizer:
    """The optimiser of a network, fused: with ``found_inf`` set to 1 a step changes nothing."""
    if kind == "adam":
        return Adam(network.parameters(), lr=rate, betas=ADAM_BETAS, fused=True)
    optimizer = SGD(
        network.parameters(),
        lr=rate,
        momentum=SGD_MOMENTUM,
        weight_decay=SGD_WEIGHT_DECAY,
        fused=True,
    )
    for parameter in network.parameters():
        # PyTorch leaves the buffers undefined if ``found_inf`` skips the first step.
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: Optimizer, state: dict) -> None:
    """Load a state; raises ValueError if it belongs to another kind of optimiser."""
    if ("momentum" in state["param_groups"][0]) != isinstance(optimizer, SGD):
        raise ValueError("of another optimiser than TRAIN.opt_type says")
    optimizer.load_state_dict(state)


def rate_factor(config: Config, iteration: int) -> float:
    """The learning rate of an iteration, as a fraction of the initial one.

    As published, (1 - iteration / total_iters)^power. With ``BEYOND.restart_rate`` the rate falls
    to 0 over the warm-up, and again from this fraction over the rest of the run.

    Args:
        config: of the run.
        iteration: counted from 0 or 1; at most ``total_iters``.
    """
    first, last, height = 0, config.TRAIN.total_iters, 1.0
    if restart := config.BEYOND.restart_rate:
        if iteration <= config.warmup_iters:
            last = config.warmup_iters
        else:
            first, height = config.warmup_iters, restart
    return height * (1 - (iteration - first) / (last - first)) ** config.TRAIN.power
