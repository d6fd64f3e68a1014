"""Whether compiling the networks of a run takes less time than it saves.

A rule, not a measurement in the run: compiled and plain networks round differently, and a seeded or
resumed run must not depend on how busy the machine is.
"""

import torch

from utils.config.schema import Config

COMPILING = 120.0  # seconds; twice the CPU time that it takes
# Seconds saved on one CPU core per iteration, pixel of a pair and channel at full resolution, the
# lowest measured; docs/performance.md.
SAVED = {torch.float32: 9.7e-9, torch.bfloat16: 1.4e-8}
CUDA_ITERATIONS = 5000  # from which a GPU compiles; estimated, not measured


def compiles(
    config: Config, device: torch.device, precision: torch.dtype, processes: int = 1
) -> bool:
    """Whether the networks of a run are compiled.

    Args:
        config: of the run; ``TRAIN.compile`` may decide.
        device: of the networks.
        precision: of the convolutions.
        processes: that share each batch.
    """
    train = config.TRAIN
    if train.compile != "auto":
        return train.compile
    if device.type != "cpu":
        return device.type == "cuda" and train.total_iters >= CUDA_ITERATIONS
    pairs = train.batch_size / processes * (2 if train.adapts else 1)
    values = config.MODEL.width * config.DATA.crop**2 * pairs * train.total_iters
    return values * SAVED[precision] / torch.get_num_threads() > COMPILING
