"""The precision the networks compute in: float32, or bfloat16 where the device is faster in it."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "DAISC_AUTO_PRECISION"  # environment variable: what ``auto`` chooses, whatever the device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision by its name.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on GPUs and CPUs that have matrix
            units for it (NVIDIA from Ampere on, Intel with AMX), else float32. The environment
            variable ``DAISC_AUTO_PRECISION`` decides for ``auto`` where it is set.
        device: to compute on.

    Raises:
        UserError: the environment variable holds another word.
    """
    if name == "auto":
        name = os.environ.get(AUTO) or ("bfloat16" if _multiplies_bfloat16(device) else "float32")
        if name not in PRECISIONS:
            raise UserError(f"{AUTO}: found {name!r}, expected {' or '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Where this is bfloat16: convolutions in it, weights and sums in float32."""
    if precision == torch.bfloat16:
        return torch.autocast(device.type, precision)
    return nullcontext()


def in_precision(network: Callable, precision: torch.dtype) -> Callable:
    """A network that computes in a precision and returns float32 at least.

    Args:
        network: takes a tensor, returns one or a named tuple of them.
        precision: bfloat16; or float32, which leaves the network's own as it is.
    """

    def run(maps: Tensor) -> Any:
        with computing_in(precision, maps.device):
            result = network(maps)
        return (
            widened(result) if isinstance(result, Tensor) else type(result)(*map(widened, result))
        )

    return run


def widened(maps: Tensor | None) -> Tensor | None:
    """bfloat16 as float32; what is wider, or None, as it is."""
    return maps.float() if maps is not None and maps.dtype == torch.bfloat16 else maps
