"""The numbers the networks compute in: float32, or bfloat16 where the device is faster in it."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision by its name.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on GPUs and CPUs that have matrix
            units for it (NVIDIA from Ampere on, Intel with AMX), else float32.
        device: to compute on.
    """
    if name == "auto":
        name = "bfloat16" if _multiplies_bfloat16(device) else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.cpu.get_capabilities().get("amx_bf16", False)


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Where this is bfloat16: convolutions in it, weights and sums in float32."""
    if precision == torch.bfloat16:
        return torch.autocast(device.type, precision)
    return nullcontext()


def widened(maps: Tensor | None) -> Tensor | None:
    """bfloat16 as float32; what is wider, or None, as it is."""
    return maps.float() if maps is not None and maps.dtype == torch.bfloat16 else maps
