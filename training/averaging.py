"""Exponential moving average of a network's weights, steadier than the weights themselves.

    average <- d average + (1 - d) weights,   d = min(1 - 1 / (t + 1), decay)   after iteration t

At first it is the plain mean of the iterations so far.
Source: Tarvainen and Valpola, *Mean teachers are better role models*, NeurIPS 2017.
"""

import copy

import torch
from torch import Tensor, nn

DECAY_SHORT, DECAY_LONG = 0.99, 0.999
LONG = 20_000  # iterations; longer runs use DECAY_LONG


def choose_decay(decay: float | str, total_iters: int) -> float:
    """Resolve ``auto``: 0.99 for runs of less than 20,000 iterations, else 0.999."""
    if decay == "auto":
        return DECAY_LONG if total_iters >= LONG else DECAY_SHORT
    return decay


class WeightAverage:
    """A copy of a network with the average of its weights.

    Args:
        network: the network that is trained.
        decay: in [0, 1); with 0 the copy equals the network.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, iteration: int, skipped: Tensor) -> None:
        """Update the average after an iteration.

        Args:
            network: the network that is trained.
            iteration: the finished iteration, counted from 1.
            skipped: scalar on the device; 1 if the iteration left the weights unchanged.
        """
        share = (1 - min(1 - 1 / (iteration + 1), self.decay)) * (1 - skipped)
        for average, value in zip(self.network.parameters(), network.parameters(), strict=True):
            average.lerp_(value, share.to(value.dtype))
