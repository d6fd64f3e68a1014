"""Which network a run leaves as ``model.ckpt``, without labels of the target.

Rules, all by what is predicted of a few crops of the target that was trained on
(``training.monitor``):

    last        the last of the network that learns
    average     the last of the average of its weights
    agreement   the most agreement between masks and those predicted through the residual
    entropy     the least mean entropy
    foreground  the foreground nearest to the source labels', by the ratio
    solidity    the mean solidity nearest to the source labels' (Franco-Barranco et al. 2022)

The last four choose among network and average alike in the second half of a run, and leave out
those whose foreground is less than a third or more than three times the source's: a network that
finds nothing agrees with itself and is sure of it. docs/RESULTS.md compares them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dataloader.pairs import PairDataset
from dataloader.volume import Volume
from model.checkpoint import CHOSEN_AVERAGE, CHOSEN_LAST, Checkpoint
from model.segmentor import PairLogits
from training.monitor import TargetMeasures, TargetWatch, foreground, label_solidity

LOOKS = 32  # crops of the target
SEED = 20220918  # of the crops: the same for all runs
GUARD = 3.0  # times the source's foreground, up and down
TENTHS = (6, 7, 8, 9, 10)  # of a run, after which its networks are looked at


class Source(NamedTuple):
    """What the source's labels look like."""

    foreground: float
    solidity: float


Rule = Callable[[TargetMeasures, Source], float]  # the least is chosen

RULES: dict[str, Rule] = {
    "agreement": lambda found, _: -found.agreement,
    "entropy": lambda found, _: found.entropy,
    "foreground": lambda found, source: abs(_ratio(found, source)),
    "solidity": lambda found, source: abs(found.solidity - source.solidity),
}

CHOICES = ("last", "average", *RULES)


def chosen_by(rule: str) -> str:
    """How a checkpoint says that a rule chose it."""
    own = {"last": CHOSEN_LAST, "average": CHOSEN_AVERAGE}
    return own.get(rule, f"{rule} on the target, without its labels")


def cost(rule: str, found: TargetMeasures, source: Source) -> float:
    """What a rule makes of a network, the less the better; infinite where it is not sound."""
    value = RULES[rule](found, source)
    sound = abs(_ratio(found, source)) <= math.log(GUARD) and not math.isnan(value)
    return value if sound else math.inf


def _ratio(found: TargetMeasures, source: Source) -> float:
    """Logarithm of the foreground over the source's."""
    return math.log(max(found.foreground, 1e-9) / max(source.foreground, 1e-9))


class TargetLook:
    """Measures networks on the same crops of the target.

    Args:
        target: its sections, at the working pixel size.
        source_labels: masks.
        stride: between the sections of a target pair.
        crop: side of the crops, pixels.
        looks: number of crops.
    """

    def __init__(
        self, target: Volume, source_labels: Volume, stride: int, crop: int, looks: int = LOOKS
    ) -> None:
        crops = PairDataset(target, None, stride, crop, (SEED,), looks)
        self.watch = TargetWatch(crops, source_labels, 0, looks)
        self.source = Source(foreground(source_labels), label_solidity(source_labels))

    def measure(
        self, segment: Callable[[Tensor], PairLogits], device: torch.device
    ) -> TargetMeasures:
        """What a network that takes pairs (B, 2, H, W) predicts."""
        return self.watch.measure(segment, device)


class CheckpointChoice:
    """The best checkpoint so far by a rule of ``RULES``.

    Args:
        rule: the rule.
        look: measures what is offered.
        total_iters: of the run.
    """

    def __init__(self, rule: str, look: TargetLook, total_iters: int) -> None:
        self.rule, self.look = rule, look
        self.iterations = {-(-total_iters * tenths // 10) for tenths in TENTHS}
        self.cost, self.checkpoint = math.inf, None

    def due(self, iteration: int) -> bool:
        """Whether the networks are to be offered after an iteration."""
        return iteration in self.iterations

    def offer(
        self,
        segment: Callable[[Tensor], PairLogits],
        device: torch.device,
        checkpoint: Callable[[], Checkpoint],
    ) -> None:
        """Keep a network's checkpoint, made when it is wanted, if it is better than all before."""
        value = cost(self.rule, self.look.measure(segment, device), self.look.source)
        if value < self.cost:
            self.cost, self.checkpoint = value, checkpoint()

    def state_dict(self) -> dict[str, Any]:
        """To go on with a run."""
        return {"cost": self.cost, "checkpoint": self.checkpoint and self.checkpoint._asdict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo ``state_dict``."""
        self.cost, found = float(state["cost"]), state["checkpoint"]
        self.checkpoint = found and Checkpoint(**found)
