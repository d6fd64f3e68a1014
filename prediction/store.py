"""Predicted sections on disk, until they are complete and become ``preds.hdf``.

Every section is a file of its own, written under a temporary name and then renamed. A kill at any
moment therefore loses only the section being written, and processes on machines that share a file
system write side by side.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET, describe
from dataloader.formats.voxel_size import VoxelSize
from prediction.fingerprint import differing
from utils.files import discard, part_of, sync_file
from utils.runtime.distributed import Group

MAX_CHUNK = 2**30  # bytes; HDF5 allows less than 4 GiB
FINGERPRINT = "fingerprint"  # attribute of the dataset; name of the JSON file while incomplete


class PredictionStore:
    """Probabilities (sections, H, W) float32 that are being written.

    Args:
        path: HDF5 file that ``finish`` writes; the sections lie in the folder ``PATH.part``.
        shape: (sections, height, width).
        voxel_size: None where it is unknown.
        fingerprint: what the predictions depend on (``prediction.fingerprint``). Sections from an
            earlier start are kept only where theirs is equal.
        group: the processes that write, each of them other sections.

    Attributes:
        changed: names of what differs from an earlier start, whose sections are then deleted.

    Raises:
        OSError: the folder cannot be written.
        PeerLost: another process has ended.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int, int],
        voxel_size: VoxelSize | None,
        fingerprint: dict[str, Any],
        group: Group,
    ) -> None:
        self.path, self.shape, self.voxel_size = path, tuple(shape), voxel_size
        self.folder, self.fingerprint = part_of(path), fingerprint
        self.changed: list[str] = []
        if group.is_main:
            self._keep_or_discard()
        group.wait()

    def done(self) -> set[int]:
        """The sections that are written."""
        return {index for index in range(self.shape[0]) if self._is_written(index)}

    def write(self, index: int, probability: np.ndarray) -> None:
        """Write a section (H, W) float32."""
        part = self.folder / f"{index}.{os.getpid()}.part"
        with part.open("wb") as file:
            np.save(file, np.asarray(probability, np.float32))
        part.replace(self._file(index))

    def read(self, index: int) -> np.ndarray:
        """A section (H, W) float32, whichever process wrote it."""
        return np.load(self._file(index))

    def finish(self, check: Callable[[], None] = lambda: None) -> None:
        """Write all sections to the HDF5 file, and delete their own files.

        Args:
            check: called before each section; may raise, and then nothing is lost.
        """
        sections, height, width = self.shape
        whole = self.folder / "whole.hdf"
        rows = max(1, min(height, MAX_CHUNK // (4 * width)))
        with h5py.File(whole, "w") as file:
            dataset = file.create_dataset(
                HDF5_DATASET, self.shape, np.float32, chunks=(1, rows, width)
            )
            describe(dataset, self.voxel_size)
            dataset.attrs[FINGERPRINT] = json.dumps(self.fingerprint)
            for index in range(sections):
                check()
                dataset[index] = self.read(index)
        sync_file(whole)
        whole.replace(self.path)
        self.discard()

    def discard(self) -> None:
        """Delete the sections."""
        discard(self.folder)

    def _keep_or_discard(self) -> None:
        file = self.folder / f"{FINGERPRINT}.json"
        try:
            self.changed = differing(json.loads(file.read_text("utf-8")), self.fingerprint)
            if not self.changed:
                return
        except (OSError, ValueError, TypeError):  # another version; killed before it was written
            if self.folder.is_dir() and any(self.folder.glob("*.npy")):
                self.changed = ["format"]
        self.discard()
        self.folder.mkdir()
        file.write_text(json.dumps(self.fingerprint), encoding="utf-8")

    def _file(self, index: int) -> Path:
        return self.folder / f"{index}.npy"

    def _is_written(self, index: int) -> bool:
        try:
            return np.load(self._file(index), mmap_mode="r").shape == self.shape[1:]
        except (OSError, ValueError, EOFError):  # EOFError, ValueError: lost in a power cut
            return False


def finished_fingerprint(path: Path) -> dict[str, Any] | None:
    """What the predictions in ``preds.hdf`` depend on; None without such a file."""
    try:
        with h5py.File(path) as file:
            return json.loads(file[HDF5_DATASET].attrs[FINGERPRINT])
    except (OSError, KeyError, ValueError):
        return None
