"""A guard against self-training that teaches itself to find nothing, or everything.

f_s is the foreground of the source's masks, f_t that of the pseudo labels, both means over the last
fifty or so batches. The pseudo labels of a batch count if

    1 / limit < f_t / f_s < limit

and not else: the source's masks alone then bring the network back. The limit is loose, as tissue
differs between volumes; a sharp one would teach the source's foreground.
"""

import torch
from torch import Tensor

from utils.runtime.distributed import Group

SHARE = 0.02  # of a batch in the running means


class ForegroundGuard:
    """Watches the foreground of masks and of pseudo labels.

    Args:
        limit: > 1, by what factor the two may differ; 0: no guard.
        device: of both.
        group: processes that share a batch.
    """

    def __init__(self, limit: float, device: torch.device, group: Group) -> None:
        self.limit, self.group = limit, group
        self.means = torch.zeros(2, device=device)  # f_s and f_t

    @torch.no_grad()
    def __call__(self, masks: Tensor, labels: Tensor) -> Tensor:
        """1.0 where the labels of a batch may count, else 0.0: a scalar on the device.

        Args:
            masks: of the source, int64 of 0 and 1.
            labels: of the target, int64 of 0 and 1.
        """
        if not self.limit:
            return torch.ones((), device=self.means.device)
        found = self.group.average(
            {"source": masks.float().mean(), "target": labels.float().mean()}
        )
        source, target = found["source"], found["target"]
        # the first batch has nothing before it: all is well
        before = torch.where(self.means.any(), self.means, source.expand(2))
        self.means = before.lerp(torch.stack([source, target]), SHARE)
        source, target = self.means
        return ((target * self.limit > source) & (target < self.limit * source)).float()
