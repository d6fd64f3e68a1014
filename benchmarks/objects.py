"""Speed and memory of finding objects in a prediction.

Usage: python -m benchmarks.objects PREDS [--voxel-size Z Y X] [--neck SHARE]
"""

import argparse
import time
from pathlib import Path

import h5py
import torch

from dataloader.formats.hdf5 import HDF5_DATASET
from dataloader.formats.voxel_size import VoxelSize
from prediction.instances.segmentation import Instances, InstanceSettings
from utils.runtime.memory import peak_memory


def main() -> None:
    """Find the objects of ``preds.hdf``; print time, rate and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("predictions", type=Path, help="preds.hdf of an inference")
    parser.add_argument("--voxel-size", type=float, nargs=3, metavar=("Z", "Y", "X"), help="nm")
    parser.add_argument("--neck", type=float, default=InstanceSettings.neck)
    chosen = parser.parse_args()
    size = VoxelSize(*chosen.voxel_size) if chosen.voxel_size else None
    with h5py.File(chosen.predictions) as file:
        probabilities = file[HDF5_DATASET]
        begin = time.perf_counter()
        settings = InstanceSettings(neck=chosen.neck)
        with Instances(probabilities.__getitem__, probabilities.shape, size, settings) as instances:
            seconds = time.perf_counter() - begin
            print(instances.notes)
        rate = probabilities.size / seconds / 1e6
    print(f"{' x '.join(map(str, instances.shape))}: {seconds:.1f} s, {rate:.1f} M voxels/s")
    print(peak_memory(torch.device("cpu")))


if __name__ == "__main__":
    main()
