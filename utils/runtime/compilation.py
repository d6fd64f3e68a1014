"""torch.compile where the machine has what it takes."""

import sys
from collections.abc import Callable

import torch
from torch import nn


def compiled(network: nn.Module) -> Callable:
    """The network compiled; itself, with a warning, where compilation does not work.

    It is tried on next to nothing first: a missing C++ compiler or Triton shows at once.
    """
    device = next(network.parameters()).device
    try:
        torch.compile(_trial)(torch.ones(2, device=device))
    except Exception as error:  # the compilers' errors have no base of their own
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        print(f"warning: TRAIN.compile: not compiled, slower ({reason})", file=sys.stderr)
        return network
    return torch.compile(network)


def _trial(x: torch.Tensor) -> torch.Tensor:
    return x.relu() + 1
