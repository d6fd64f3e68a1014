"""What a prediction depends on; sections of two starts belong together where it is equal."""

import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prediction.orthoplane import SlicingAxis
from prediction.predictor import NetworkPredictor


def prediction_fingerprint(
    axis: SlicingAxis, predict: NetworkPredictor, batch_size: int, **settings: Any
) -> dict[str, Any]:
    """All that the predictions along an axis depend on, by name, as JSON values.

    What changes them by rounding alone is left out: number of threads, processor, compilation.

    Args:
        axis: the sections, their pairs and windows.
        predict: the network, its device and precision.
        batch_size: windows predicted at a time.
        settings: further settings that affect the predictions.

    Raises:
        UserError: a file of the volume is missing.
    """
    windows, volume = axis.windows, axis.volume
    cutting = (windows.padding, windows.corners, windows.size, axis.pairs)
    return {
        "weights": _checksum(predict.segmentor.state_dict()),
        "volume": volume.where,
        "files": volume.fingerprint(),
        "shape": [*volume.original.shape, *volume.shape],
        "windows": zlib.crc32(repr(cutting).encode()),
        "batch_size": batch_size,
        "precision": str(predict.precision),
        "device": predict.device.type,
        **settings,
    }


def differing(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of what differs between two fingerprints."""
    return [name for name in now | earlier if earlier.get(name) != now.get(name)]


def _checksum(weights: dict[str, Tensor]) -> int:
    """CRC-32 over names and values."""
    checksum = 0
    for name, value in sorted(weights.items()):
        checksum = zlib.crc32(value.cpu().contiguous().view(torch.uint8).numpy(), checksum)
        checksum = zlib.crc32(name.encode(), checksum)
    return checksum
