"""What a command took of the machine."""

import re
import sys
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory(device: torch.device) -> str:
    """The most memory this process held so far, as ``peak memory: 1.2 GB, GPU 3.4 GB``."""
    peak = _peak_resident()
    parts = ["not known here" if peak is None else f"{peak / 1e9:.1f} GB"]
    if device.type == "cuda":
        parts.append(f"GPU {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
    return "peak memory: " + ", ".join(parts)


def _peak_resident() -> int | None:
    """Bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count the process that started this one
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
