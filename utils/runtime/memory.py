"""Used and available memory."""

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CONTROL_GROUPS = {  # folder, and files of limit and usage, by the name of the controller
    "": ("", "memory.max", "memory.current"),  # version 2
    "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
}

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory(device: "torch.device") -> str:
    """Peak memory of this process, as text: ``peak memory: 1.2 GB, GPU 3.4 GB``."""
    peak = _peak_resident()
    parts = ["unknown" if peak is None else f"{peak / 1e9:.1f} GB"]
    if device.type == "cuda":
        import torch  # not needed for available_memory

        parts.append(f"GPU {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB")
    return "peak memory: " + ", ".join(parts)


def available_memory() -> int | None:
    """Bytes available to this process, within the limits of machine, container and process.

    None if unknown.
    """
    free = []
    status = Path("/proc/meminfo")
    if status.exists():
        found = re.search(r"MemAvailable:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        free += [int(found[1]) * 1024] if found else []
    free += free_in_control_groups()
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = Path("/proc/self/statm")
        if limit != resource.RLIM_INFINITY and pages.exists():
            free.append(limit - int(pages.read_text().split()[0]) * resource.getpagesize())
    return max(0, min(free)) if free else None


def free_memory(device: "torch.device") -> int | None:
    """Bytes available on a device; None if unknown."""
    if device.type != "cuda":
        return available_memory()
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free + unused  # what PyTorch keeps for itself, and what nobody has


def free_in_control_groups(
    own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> list[int]:
    """Bytes left by the limit of each control group of this process and of those above."""
    free = []
    for line in own.read_text(encoding="utf-8").splitlines() if own.is_file() else ():
        _, controllers, place = line.split(":", 2)
        for controller in set(controllers.split(",")) & set(CONTROL_GROUPS):
            folder, limit, used = CONTROL_GROUPS[controller]
            group = Path(place.lstrip("/"))
            for level in (group, *group.parents):
                files = [root / folder / level / name for name in (limit, used, "memory.stat")]
                if not all(file.is_file() for file in files):
                    continue
                highest, taken, statistics = (file.read_text().strip() for file in files)
                cached = re.search(r"^(?:total_)?inactive_file (\d+)", statistics, re.MULTILINE)
                if highest.isdecimal():
                    free.append(int(highest) - int(taken) + (int(cached[1]) if cached else 0))
    return free


def _peak_resident() -> int | None:
    """Bytes; None if unknown."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage includes the parent process
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) * 1024
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes in the unit of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
