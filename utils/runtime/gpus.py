"""Which GPU a job gets, of several that run side by side."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuPool:
    """Hands out this process's GPUs, each time the one with the fewest jobs."""

    def __init__(self) -> None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        chosen = os.environ.get(VISIBLE)  # numbers or UUIDs; a job's own are counted anew
        names = chosen.split(",") if chosen else [str(number) for number in range(count)]
        self._jobs = dict.fromkeys(names[:count], 0)
        self._lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[dict[str, str]]:
        """The environment variable of a job that sees one GPU alone; empty without GPUs."""
        if not self._jobs:
            yield {}
            return
        with self._lock:
            gpu = min(self._jobs, key=self._jobs.get)
            self._jobs[gpu] += 1
        try:
            yield {VISIBLE: gpu}
        finally:
            with self._lock:
                self._jobs[gpu] -= 1
