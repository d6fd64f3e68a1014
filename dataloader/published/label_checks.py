"""Whether masks belong to the sections they come with."""

from pathlib import Path

import numpy as np

from utils.errors import UserError

SAMPLES = 1024  # along each side of a section; more tell nothing new
LEAST_CONTRAST = 0.3  # 0.8 to 1.0 on VNC III, Lucchi and FAFB; 0.1 with another stack's masks
MARGIN = 1.05  # by which no neighbour's masks may fit better; 0.79 on VNC III, 1.003 on Lucchi


class LabelChecks:
    """Takes sections with their masks in order; raises UserError where the two do not match.

    Masks of neighbouring sections overlap. Mitochondria are darker than their surroundings, most of
    all under the masks of their own section.

    Args:
        path: of the volume, for messages.
        least_overlap: least Dice overlap of the masks of neighbouring sections.
    """

    def __init__(self, path: Path, least_overlap: float) -> None:
        self.path, self.least_overlap = path, least_overlap
        self.overlaps: list[float] = []
        # of each section with its own mask, and with those of the sections before and after it
        self.contrasts: dict[str, list[float]] = {"own": [], "before": [], "after": []}
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, image: np.ndarray, mask: np.ndarray, where: str) -> None:
        """Check the next section.

        Args:
            image: (H, W) uint8.
            mask: (H, W) uint8 of 0 and 1.
            where: place of the mask, for messages.

        Raises:
            UserError: its mask does not overlap the one before.
        """
        image, mask = _sampled(image), _sampled(mask) > 0
        self._note("own", image, mask)
        if self.last is not None:
            last_image, last_mask = self.last
            self._note("before", image, last_mask)
            self._note("after", last_image, mask)
            overlap = dice(last_mask, mask)
            if overlap < self.least_overlap:
                raise UserError(
                    f"{where}: overlaps the masks of the section before by {overlap:.2f} (Dice), "
                    f"expected {self.least_overlap} at least; shifted, damaged or out of order?"
                )
            self.overlaps.append(overlap)
        self.last = image, mask

    def finish(self) -> None:
        """Check the volume as a whole; raises UserError."""
        if not self.contrasts["own"]:
            raise UserError(f"{self.path}: found no mitochondria in any mask, expected some")
        own = self._mean("own")
        if own < LEAST_CONTRAST:
            raise UserError(
                f"{self.path}: mitochondria are hardly darker than their surroundings (contrast "
                f"{own:.2f}, expected {LEAST_CONTRAST} at least); masks of other sections, or "
                "shifted?"
            )
        for side in ("before", "after"):
            if self._mean(side) > MARGIN * own:
                raise UserError(
                    f"{self.path}: sections fit the masks of the sections {side} them better than "
                    f"their own (contrast {self._mean(side):.2f} against {own:.2f}); numbered from "
                    "another one?"
                )

    def __str__(self) -> str:
        return (
            f"overlap of neighbouring masks {min(self.overlaps, default=1):.2f} at least, "
            f"contrast {self._mean('own'):.2f}"
        )

    def _note(self, name: str, image: np.ndarray, mask: np.ndarray) -> None:
        if 0 < np.count_nonzero(mask) < mask.size:
            self.contrasts[name].append(contrast(image, mask))

    def _mean(self, name: str) -> float:
        return float(np.mean(self.contrasts[name] or [0]))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice overlap of two boolean masks; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0


def contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """(mean outside a boolean mask - mean inside) / standard deviation of the image."""
    deviation = float(image.std())
    return float(image[~mask].mean() - image[mask].mean()) / deviation if deviation else 0.0


def _sampled(section: np.ndarray) -> np.ndarray:
    """At most about ``SAMPLES`` pixels along each side."""
    step = [max(1, side // SAMPLES) for side in section.shape]
    return section[:: step[0], :: step[1]].copy()
