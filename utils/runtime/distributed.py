"""Several processes at one job, as ``torchrun`` starts them; one alone is a group of one.

Tensors on a GPU travel by NCCL, those on the CPU by gloo.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

PATIENCE = timedelta(hours=2)  # the first process validates meanwhile
PEER_LOST = "another process of the run has ended; its own message says why"


class PeerLost(Exception):
    """Another process is gone, so that no joint step can be made any more."""


class Group:
    """The processes of a run.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls) -> "Group":
        """The group that ``torchrun`` made; without it, a group of one.

        Processes but the first print nothing.
        """
        if "RANK" not in os.environ or not dist.is_available():
            return cls()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        group = cls(dist.get_rank(), dist.get_world_size())
        if not group.is_main:
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - to the end
        return group

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This process's part of a sequence: runs as equal as can be."""
        count = len(items)
        return items[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def average_gradients(self, networks: Iterable[nn.Module]) -> None:
        """Give all processes the mean of their gradients; raises ``PeerLost``."""
        if self.size == 1:
            return
        for network in networks:
            self._average([p.grad for p in network.parameters() if p.grad is not None])

    def average(self, report: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means of scalars over the processes; raises ``PeerLost``."""
        if self.size == 1:
            return report
        values = torch.stack([value.float() for value in report.values()])
        self._average([values])
        return dict(zip(report, values, strict=True))

    def any(self, truth: bool) -> bool:
        """Whether it is true of any process; the GPU is not waited for. Raises ``PeerLost``."""
        if self.size == 1:
            return truth
        flag = torch.tensor([float(truth)])
        self._reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def agree(self, number: int) -> int:
        """The first process's number, for all of them; raises ``PeerLost``."""
        if self.size == 1:
            return number
        shared = torch.tensor([number if self.is_main else 0])
        self._reduce(shared, dist.ReduceOp.SUM)
        return int(shared)

    def wait(self) -> None:
        """Wait until all processes have come here; raises ``PeerLost``."""
        self.any(False)

    def leave(self) -> None:
        """End the group in good order, when all is done."""
        if self.size > 1:
            dist.destroy_process_group()

    def _average(self, tensors: list[Tensor]) -> None:
        joined = torch.cat([tensor.flatten() for tensor in tensors])
        self._reduce(joined, dist.ReduceOp.SUM)
        joined /= self.size
        for tensor, mean in zip(tensors, joined.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    @staticmethod
    def _reduce(tensor: Tensor, operation: dist.ReduceOp) -> None:
        try:
            dist.all_reduce(tensor, operation)
        except RuntimeError as error:  # gloo and NCCL say it in many ways
            raise PeerLost(PEER_LOST) from error
