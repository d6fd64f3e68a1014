"""The rank of this process under ``torchrun``, without importing torch."""

import os


def local_rank() -> int:
    """Rank on this machine, which is the number of the GPU to use."""
    return int(os.environ.get("LOCAL_RANK", 0))


def rank() -> int:
    """Rank in the run; known before the group is joined."""
    return int(os.environ.get("RANK", 0))
