"""Distribute GPUs among parallel jobs."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


class GpuPool:
    """Assigns the GPUs visible to this process to jobs, each time the one with the fewest jobs."""

    def __init__(self) -> None:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        chosen = os.environ.get(VISIBLE)  # numbers or UUIDs
        names = chosen.split(",") if chosen else [str(number) for number in range(count)]
        self._jobs = dict.fromkeys(names[:count], 0)
        self._lock = threading.Lock()

    @contextmanager
    def taken(self) -> Iterator[dict[str, str]]:
        """Environment variables that show a job a single GPU; empty without GPUs."""
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
