"""``preds.hdf`` while it is made: section by section, by one process or several, in several goes.

All of the file's space is allotted when it is made, a page-aligned chunk for each section, so that
writing a section changes none of the file's own structures: processes on machines that share a file
system write theirs side by side, and a kill at any moment spoils no more than the section it hits.
A mark with a section's checksum says that it is written.
"""

import json
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dataloader.formats.hdf5 import HDF5_DATASET, describe
from dataloader.formats.voxel_size import VoxelSize
from prediction.fingerprint import differing
from prediction.outputs import marks_of
from utils.files import discard, part_of, sync_file
from utils.runtime.distributed import Group

PAGE = 4096  # bytes
LARGEST_CHUNK = 2**30  # bytes; HDF5 allows less than 4 GiB
FINGERPRINT = "fingerprint.json"


class PredictionStore:
    """Probabilities (sections, H, W) float32 that are being written, beside their place.

    Args:
        path: the place.
        shape: (sections, height, width).
        voxel_size: None where it is not known.
        fingerprint: what the predictions are made from (``prediction.fingerprint``); what is there
            is gone on with where its own is equal, else begun anew.
        group: the processes that write, each other sections.

    Attributes:
        changed: names of what differs where sections were predicted before, so that they do not
            count.

    Raises:
        OSError: it cannot be written.
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
        self.path, self.part, self.shape = path, part_of(path), tuple(shape)
        self.marks = marks_of(path)
        self.rows = max(1, min(shape[1], LARGEST_CHUNK // (4 * shape[2])))  # of a chunk
        self.changed: list[str] = []
        if group.is_main and not self._goes_on(fingerprint):
            self._begin(voxel_size, fingerprint)
        group.wait()
        with h5py.File(self.part) as file:
            chunks = file[HDF5_DATASET].id
            self.offsets = {
                (index, row): chunks.get_chunk_info_by_coord((index, row, 0)).byte_offset
                for index in range(shape[0])
                for row in range(0, shape[1], self.rows)
            }
        self.file = self.part.open("r+b", buffering=0)

    def _goes_on(self, fingerprint: dict[str, Any]) -> bool:
        try:
            earlier = json.loads((self.marks / FINGERPRINT).read_text("utf-8"))
            self.changed = differing(earlier, fingerprint)
            with h5py.File(self.part) as file:
                return file[HDF5_DATASET].shape == self.shape and not self.changed
        except (OSError, KeyError, ValueError):
            if any(self.marks.glob("[0-9]*")):
                self.changed = self.changed or ["format"]
            return False

    def _begin(self, voxel_size: VoxelSize | None, fingerprint: dict[str, Any]) -> None:
        discard(self.marks)
        self.marks.mkdir()
        discard(self.part)
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        aligned = {"alignment_threshold": PAGE, "alignment_interval": PAGE}
        with h5py.File(self.part, "x", **aligned) as file:
            chunks = (1, self.rows, self.shape[2])
            dataset = file.create_dataset(
                HDF5_DATASET, self.shape, np.float32, chunks=chunks, dcpl=layout
            )
            describe(dataset, voxel_size)
        sync_file(self.part)
        self._put(
            self.marks / FINGERPRINT, json.dumps(fingerprint)
        )  # last: from now on it can be gone on with

    def done(self) -> set[int]:
        """The sections that are written; each is read and compared to its checksum."""
        found = set()
        for mark in self.marks.glob("[0-9]*"):
            index = int(mark.name)
            if mark.read_text(encoding="utf-8") == _checksum(self.read(index)):
                found.add(index)
        return found

    def write(self, index: int, probability: np.ndarray) -> None:
        """Write a section (H, W) float32."""
        probability = np.ascontiguousarray(probability, np.float32)
        for row in range(0, self.shape[1], self.rows):
            self.file.seek(self.offsets[index, row])
            rest = memoryview(probability[row : row + self.rows]).cast("B")
            while rest:  # the system may write less than it is given
                rest = rest[self.file.write(rest) :]
        self._put(self.marks / str(index), _checksum(probability))

    def read(self, index: int) -> np.ndarray:
        """A section (H, W) float32, whoever has written it."""
        section = np.empty(self.shape[1:], np.float32)
        for row in range(0, self.shape[1], self.rows):
            self.file.seek(self.offsets[index, row])
            self.file.readinto(memoryview(section[row : row + self.rows]).cast("B"))
        return section

    def close(self) -> None:
        """Let go of the file; it can be gone on with."""
        self.file.close()

    def discard(self) -> None:
        """Delete all that is written."""
        self.close()
        discard(self.part)
        discard(self.marks)

    def finish(self) -> None:
        """Give the whole file its name."""
        self.close()
        sync_file(self.part)
        self.part.replace(self.path)
        discard(self.marks)

    @staticmethod
    def _put(path: Path, text: str) -> None:
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)


def _checksum(section: np.ndarray) -> str:
    return f"{zlib.crc32(section):08x}"
