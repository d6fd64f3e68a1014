"""Several processes of one run, as started by ``torchrun``. A single process is a group of one.

Tensors on GPUs are reduced by NCCL, those on CPUs by gloo.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

TIMEOUT = timedelta(days=1)  # others wait while the first process validates, or joins files
PEER_LOST = "another process of the run has ended; see its own message"


class PeerLost(Exception):
    """Another process has ended, so collective operations are no longer possible."""


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
        """Join the group started by ``torchrun``; without it, a group of one.

        Only the first process prints.
        """
        if "RANK" not in os.environ or not dist.is_available():
            return cls()
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=TIMEOUT)
        group = cls(dist.get_rank(), dist.get_world_size())
        if not group.is_main:
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - open until exit
        return group

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def share(self, items: Sequence) -> Sequence:
        """This process's contiguous part of a sequence; parts differ by at most one item."""
        count = len(items)
        return items[count * self.rank // self.size : count * (self.rank + 1) // self.size]

    def average_gradients(self, networks: Iterable[nn.Module]) -> None:
        """Average the gradients over the processes, in place; raises ``PeerLost``."""
        if self.size == 1:
            return
        for network in networks:
            self._average([p.grad for p in network.parameters() if p.grad is not None])

    def average(self, report: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means of scalars over the processes; raises ``PeerLost``."""
        if self.size == 1:
            return report
        values = torch.stack([value.float() for value in report.values()])
        self._average([values])
        return dict(zip(report, values, strict=True))

    def any_process(self, condition: bool) -> bool:
        """Whether a condition holds in any process, without waiting for GPUs.

        Raises ``PeerLost``.
        """
        if self.size == 1:
            return condition
        flag = torch.tensor([float(condition)])
        self._reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def agree(self, number: int) -> int:
        """The number of the first process, for all processes; raises ``PeerLost``."""
        if self.size == 1:
            return number
        shared = torch.tensor([number if self.is_main else 0])
        self._reduce(shared, dist.ReduceOp.SUM)
        return int(shared)

    def wait(self) -> None:
        """Wait until all processes have reached this call; raises ``PeerLost``."""
        self.any_process(False)

    def leave(self) -> None:
        """Leave the group at the end of the run."""
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
        except RuntimeError as error:  # gloo and NCCL have many messages for it
            raise PeerLost(PEER_LOST) from error
