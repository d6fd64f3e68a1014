"""Device, precision and compilation."""

import ctypes
import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError, warn
from utils.runtime.rank import local_rank

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
AUTO = "DAISC_AUTO_PRECISION"  # environment variable that overrides the choice of ``auto``
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def choose_device(name: str, if_cuda: bool = True) -> torch.device:
    """The device with a name; ``auto`` is a GPU if there is one and ``if_cuda`` is set.

    Raises:
        UserError: this machine does not have the device.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind in present if present[kind] and (if_cuda or kind == "cpu"))
    if not present[name]:
        raise UserError(f"--device {name}: not available on this machine; use --device cpu or auto")
    if name == "cpu":
        keep_freed_memory()
    if name == "cuda":
        torch.cuda.set_device(local_rank())
        return torch.device(name, local_rank())
    return torch.device(name)


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of returning it to the system (glibc only).

    Each step frees and allocates the same gigabytes. Page faults would cost a tenth of the time,
    and half of it on a busy virtual machine.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """The precision with a name.

    Args:
        name: ``float32``, ``bfloat16`` or ``auto``: bfloat16 on GPUs and CPUs that multiply it
            faster (NVIDIA from Ampere on, x86 with AMX or AVX512_BF16, which is AMD from Zen 4 on),
            else float32. The environment variable ``DAISC_AUTO_PRECISION`` overrides ``auto``.
        device: the device to compute on.

    Raises:
        UserError: the environment variable has another value.
    """
    if name == "auto":
        name = os.environ.get(AUTO) or ("bfloat16" if _multiplies_bfloat16(device) else "float32")
        if name not in PRECISIONS:
            raise UserError(f"{AUTO}: found {name!r}, expected {' or '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(able.get(name) for name in ("amx_bf16", "avx512_bf16"))


def computing_in(precision: torch.dtype, device: torch.device) -> AbstractContextManager:
    """Autocast for bfloat16, with weights and sums in float32; nothing for float32."""
    if precision == torch.bfloat16:
        return torch.autocast(device.type, precision)
    return nullcontext()


def in_precision(network: Callable, precision: torch.dtype) -> Callable:
    """Wrap a network to compute in a precision and to return at least float32.

    Args:
        network: maps a tensor to a tensor or to a named tuple of tensors.
        precision: bfloat16, or float32, which leaves the precision of the network unchanged.
    """

    def run(maps: Tensor) -> Any:
        with computing_in(precision, maps.device):
            result = network(maps)
        return (
            widened(result) if isinstance(result, Tensor) else type(result)(*map(widened, result))
        )

    return run


def widened(maps: Tensor | None) -> Tensor | None:
    """Convert bfloat16 to float32; anything else is returned unchanged."""
    return maps.float() if maps is not None and maps.dtype == torch.bfloat16 else maps


def can_compile(device: torch.device, key: str) -> bool:
    """Whether ``torch.compile`` works for a device; if not, a warning names a key of the config.

    A tiny function is compiled, which fails at once without a C++ compiler or Triton.
    """
    _keep_compiled_code()
    try:
        without_caches = torch._inductor.config.patch(force_disable_caches=True)
        with without_caches, warnings.catch_warnings(action="ignore"):
            torch.compile(_trial)(torch.ones(2, device=device))
    except Exception as error:  # compiler errors have no common base class
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        warn(f"{key}: compilation does not work, so this takes longer ({reason})")
        return False
    return True


def _keep_compiled_code() -> None:
    """Let later runs find compiled code; by default it is in a folder for temporary files."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "da-isc/inductor"
    with suppress(OSError):  # a home that cannot be written to
        cache.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))


def _trial(x: Tensor) -> Tensor:
    return x.relu() + 1
