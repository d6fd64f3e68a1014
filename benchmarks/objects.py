"""Speed and memory of finding objects in a prediction.

Usage: python -m benchmarks.objects PREDS [--voxel-size Z Y X] [--neck SHARE] [--grow SHARE]
           [--shape Z Y X]
"""

import argparse
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.segmentation import Instances, InstanceSettings
from prediction.instances.table import Box
from utils.runtime.memory import peak_memory
from utils.runtime.threads import cores


class Mirrored:
    """A volume in memory, mirrored at its borders until it has a shape; read by section or box."""

    def __init__(self, volume: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.volume, self.shape = volume, shape

    def __getitem__(self, place: int | Box) -> np.ndarray:
        if isinstance(place, int):
            return self[place : place + 1, : self.shape[1], : self.shape[2]][0]
        z, y, x = (
            np.pad(np.arange(n), (0, max(0, length - n)), "symmetric")[side]
            for n, length, side in zip(self.volume.shape, self.shape, place, strict=True)
        )
        return np.stack([self.volume[k].take(y, 0).take(x, 1) for k in z])


def main() -> None:
    """Find the objects of ``preds.hdf``; print time, rate and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path, help="preds.hdf of an inference")
    parser.add_argument("--voxel-size", type=float, nargs=3, metavar=("Z", "Y", "X"), help="nm")
    parser.add_argument("--neck", type=float, default=InstanceSettings.neck)
    parser.add_argument("--grow", type=float, default=InstanceSettings.grow)
    parser.add_argument(
        "--shape",
        type=int,
        nargs=3,
        metavar=("Z", "Y", "X"),
        help="mirror the prediction, in memory, or crop it to this shape",
    )
    chosen = parser.parse_args()
    size = VoxelSize(*chosen.voxel_size) if chosen.voxel_size else None
    with h5py.File(chosen.predictions) as file:
        probabilities = file[HDF5_DATASET]
        if chosen.shape:
            probabilities = Mirrored(probabilities[:], tuple(chosen.shape))
        print(peak_memory(torch.device("cpu")), "before")
        begin, computed = time.perf_counter(), time.process_time()
        settings = InstanceSettings(neck=chosen.neck, grow=chosen.grow)
        with Instances(probabilities.__getitem__, probabilities.shape, size, settings) as instances:
            seconds = time.perf_counter() - begin
            print(instances.notes)
    computed = time.process_time() - computed
    shape = " x ".join(map(str, instances.shape))
    rate = np.prod(instances.shape) / 1e6
    print(f"{shape}: {seconds:.1f} s on {cores()} cores, {rate / seconds:.1f} M voxels/s")
    print(f"{computed:.1f} s of computing, {rate / computed:.1f} M voxels/s on each core")
    print(peak_memory(torch.device("cpu")))


if __name__ == "__main__":
    main()
