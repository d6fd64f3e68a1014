"""Volumes in memory, made-up networks and other stand-ins that several tests use."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dataloader.volume import Volume


class Sections(Volume):
    """In memory, as they are: not scaled."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.shape = array, array.shape

    def section(self, index: int) -> np.ndarray:
        return self.array[index]

    def scaled(self, index: int) -> np.ndarray:
        return self.array[index]


def random_logits(seed: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    shape = (batch, 2, 5, 7)
    return tuple(
        torch.randn(shape, generator=draw, dtype=torch.float64).requires_grad_() for _ in range(3)
    )


class Malicious:
    """Runs a command where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


class ArrayVolume(Volume):
    """A volume in memory that keeps account of what is read."""

    path = Path("array")

    def __init__(self, array: np.ndarray, tiled: bool = False) -> None:
        self.array, self.shape, self.tiled = array, array.shape, tiled
        self.read: list[int] = []

    def section(self, index: int) -> np.ndarray:
        self.read.append(index)
        return self.array[index]


def noise(sections: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (sections, *shape), np.uint8)


class Plain:
    """Predicts pairs (windows, 2, h, w) by a function; counts what it encodes."""

    device = torch.device("cpu")

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.function = function
        self.encoded = 0

    def encode(self, sections: torch.Tensor) -> torch.Tensor:
        self.encoded += len(sections)
        return sections

    def decode(self, current: torch.Tensor, auxiliary: torch.Tensor) -> torch.Tensor:
        return self.function(torch.stack([current, auxiliary], dim=1))
