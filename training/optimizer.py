"""The optimisers of a run, with the published settings."""

from typing import Literal

import torch
from torch import nn
from torch.optim import SGD, Adam, Optimizer

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
