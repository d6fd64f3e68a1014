"""What a command took of the machine."""

import sys

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory(device: torch.device) -> str:
    """The most memory this process held so far, as ``peak memory: 1.2 GB, GPU 3.4 GB``."""
    parts = []
    if resource:
        unit = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss
        parts.append(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9:.1f} GB")
    if device.type == "cuda":
        parts.append(f"GPU {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
    return "peak memory: " + (", ".join(parts) or "not known here")
