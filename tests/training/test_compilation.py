"""For which runs the networks are compiled."""

import pytest
import torch

from tests.settings import config_of
from training.compilation import COMPILING, SAVED, compiles

CPU, GPU, OTHER = (torch.device(name) for name in ("cpu", "cuda", "mps"))
WIDE = {"width": 64, "compile": "auto", "total_iters": 200_000}
LITTLE = {"width": 2, "compile": "auto", "total_iters": 10}


@pytest.mark.parametrize("choice", [True, False])
@pytest.mark.parametrize("device", [CPU, GPU, OTHER], ids=str)
def test_the_config_decides(device: torch.device, choice: bool) -> None:
    for settings in (WIDE, LITTLE):
        config = config_of(**settings | {"compile": choice})
        assert compiles(config, device, torch.float32) is choice


def test_auto_compiles_long_runs() -> None:
    assert [d for d in (CPU, GPU, OTHER) if compiles(config_of(**WIDE), d, torch.float32)] == [
        CPU,
        GPU,
    ]
    assert not any(compiles(config_of(**LITTLE), d, torch.float32) for d in (CPU, GPU, OTHER))


def test_auto_counts_the_work_of_a_process() -> None:
    """The run is just long enough with both domains in one process."""
    seconds = COMPILING * torch.get_num_threads() / SAVED[torch.float32]
    iterations = int(seconds / (2 * 512**2 * 2 * 4)) + 1
    enough = {"width": 2, "compile": "auto", "batch_size": 4, "total_iters": iterations}
    alone = {"weight_cross": 0.0, "weight_adv_spatial": 0.0, "weight_adv_temporal": 0.0}
    assert compiles(config_of(**enough), CPU, torch.float32)
    assert not compiles(config_of(**enough), CPU, torch.float32, processes=2)
    assert not compiles(config_of(**enough | alone), CPU, torch.float32)
    assert not compiles(config_of(**enough | {"batch_size": 2}), CPU, torch.float32)
    shorter = {"total_iters": iterations - 2}
    assert not compiles(config_of(**enough | shorter), CPU, torch.float32)
    assert compiles(config_of(**enough | shorter), CPU, torch.bfloat16)
