"""What a command took of the machine."""

import re
import sys
from pathlib import Path

import torch

CONTAINERS = (  # limit, use and statistics, of control groups v2 and v1
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)

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


def available_memory() -> int | None:
    """Bytes this process may still take: of the machine, its container and its limits.

    None where the system does not tell.
    """
    free = []
    status = Path("/proc/meminfo")
    if status.exists():
        found = re.search(r"MemAvailable:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        free += [int(found[1]) * 1024] if found else []
    for limit, used, statistics in CONTAINERS:
        files = [Path("/sys/fs/cgroup") / name for name in (limit, used, statistics)]
        if all(file.is_file() for file in files):
            limit, used, statistics = (file.read_text().strip() for file in files)
            cached = re.search(r"^inactive_file (\d+)", statistics, re.MULTILINE)
            if limit.isdecimal():
                free.append(int(limit) - int(used) + (int(cached[1]) if cached else 0))
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = Path("/proc/self/statm")
        if limit != resource.RLIM_INFINITY and pages.exists():
            free.append(limit - int(pages.read_text().split()[0]) * resource.getpagesize())
    return max(0, min(free)) if free else None


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
