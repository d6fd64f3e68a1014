"""Handles losses and gradients that are not finite.

``Learner.finish`` leaves weights and optimisers unchanged in such an iteration, on the device and
without waiting for it. The reports are kept here until the host waits for the device anyway.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from dataloader.pairs import PairDataset
from prediction.pictures import grey, side_by_side, stacked
from utils.errors import UserError
from utils.files import write_picture

MOST_SKIPPED = 100  # iterations in a row
MOST_SAVED = 5  # iterations whose pairs are written to files


class NonFiniteMonitor:
    """Stops the run at an iteration that is not finite, or logs and counts it.

    Args:
        rule: TRAIN.on_nan.
        batch_size: pairs of each domain in an iteration.
        folder: where the pairs of such an iteration are written: pictures such as
            ``nonfinite-37-source.png``, arrays in ``nonfinite-37.npz``; None: nowhere.
    """

    def __init__(
        self,
        rule: Literal["stop", "skip"],
        batch_size: int,
        folder: Path | None,
    ) -> None:
        self.rule, self.batch_size, self.folder = rule, batch_size, folder
        self.pending: list[tuple[int, dict[str, Tensor], dict[str, PairDataset]]] = []
        self.skipped = self.in_a_row = 0

    def add(self, iteration: int, report: dict[str, Tensor], pairs: dict[str, PairDataset]) -> None:
        """Keep the report of an iteration, without waiting for the device.

        Args:
            iteration: counted from 1.
            report: its scalars.
            pairs: the pairs it was trained on, by domain.
        """
        self.pending.append((iteration, report, pairs))

    def settle(self, say: Callable[[str], None]) -> None:
        """Check the iterations since the last call.

        Args:
            say: called with a line for each skipped iteration.

        Raises:
            UserError: an iteration is not finite and the rule is ``stop``, or too many were
                skipped in a row.
        """
        if not self.pending:
            return
        flags = torch.stack([report["skipped"] for _, report, _ in self.pending]).tolist()
        pending, self.pending = self.pending, []
        for (iteration, report, pairs), flag in zip(pending, flags, strict=True):
            self.in_a_row = self.in_a_row + 1 if flag else 0
            if flag:
                self._found(iteration, report, pairs, say)

    def _found(
        self,
        iteration: int,
        report: dict[str, Tensor],
        pairs: dict[str, PairDataset],
        say: Callable[[str], None],
    ) -> None:
        values = {name: float(value) for name, value in report.items()}
        names = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        places, kept = self._pairs(iteration, pairs, save=self.skipped < MOST_SAVED)
        text = f"not finite: {names}; {places}{kept}"
        self.skipped += 1
        if self.rule == "stop":
            raise UserError(
                f"iteration {iteration}: {text}; the last save is from before it, and "
                "TRAIN.on_nan=skip with --resume skips such iterations"
            )
        say(f"skipped at {iteration}: {text} ({self.skipped} so far)")
        if self.in_a_row >= MOST_SKIPPED:
            raise UserError(
                f"iteration {iteration}: {self.in_a_row} iterations in a row were skipped; "
                f"{text}; check the data and the learning rates"
            )

    def _pairs(
        self, iteration: int, domains: dict[str, PairDataset], save: bool
    ) -> tuple[str, str]:
        """Which pairs an iteration was trained on, and the files they were written to."""
        first = (iteration - 1) * self.batch_size
        numbers = range(first, first + self.batch_size)
        samples = {name: [data[number] for number in numbers] for name, data in domains.items()}
        places = [
            f"{name} {data.describe(number)}"
            for name, data in domains.items()
            for number in numbers
        ]
        if not save or self.folder is None:
            return "; ".join(places), ""
        arrays = {}
        for name, pairs in samples.items():
            rows = [side_by_side([grey(i) for i in sample["images"]]) for sample in pairs]
            write_picture(self.folder / f"nonfinite-{iteration}-{name}.png", stacked(rows))
            for key in pairs[0]:
                arrays[f"{name}_{key}"] = np.stack([sample[key] for sample in pairs])
        np.savez_compressed(self.folder / f"nonfinite-{iteration}.npz", **arrays)
        return "; ".join(places), f"; see {self.folder}/nonfinite-{iteration}-*.png"

    def state_dict(self) -> dict[str, int]:
        """The counts of skipped iterations."""
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what ``state_dict`` returned; an empty dict changes nothing."""
        self.skipped = state.get("skipped", self.skipped)
        self.in_a_row = state.get("in_a_row", self.in_a_row)
