"""Whether masks belong to the sections they come with."""

from pathlib import Path

import numpy as np

from utils.errors import UserError

SAMPLES = 1024  # along each side of a section; more tell nothing new
LEAST_CONTRAST = 0.3  # 0.8 to 1.0 on VNC III, Lucchi and FAFB; 0.1 with another stack's masks
MARGIN = 1.05  # by which no neighbour's masks may fit better; 0.79 on VNC III, 1.003 on Lucchi


class LabelChecks:
    """Takes in sections with their masks, and complains where the two are not of one tissue.

    Masks of neighbouring sections overlap; mitochondria are darker than what surrounds them, most
    of all under their own masks. Contrast is (mean outside - mean inside) / standard deviation of
    a section.

    Args:
        path: of the volume, for messages.
        least_overlap: least Dice overlap of the masks of neighbouring sections.
        state: ``state`` of the checks that these go on from.
    """

    def __init__(self, path: Path, least_overlap: float, state: dict | None = None) -> None:
        self.path, self.least_overlap = path, least_overlap
        self.state = state or {
            "overlaps": [],
            "own": [],  # contrasts of a section's mask, of the one before and of the one after
            "before": [],
            "after": [],
        }
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def begin(self, image: np.ndarray, mask: np.ndarray) -> None:
        """Take the section before the next, which an earlier run has checked."""
        self.last = _sampled(image), _sampled(mask) > 0

    def add(self, image: np.ndarray, mask: np.ndarray, where: str) -> None:
        """Check the next section.

        Args:
            image: (H, W) uint8.
            mask: (H, W) uint8 of 0 and 1.
            where: place of the mask, for messages.

        Raises:
            UserError: its mask does not lie on the one before.
        """
        before, self.last = self.last, (_sampled(image), _sampled(mask) > 0)
        image, mask = self.last
        self._note("own", contrast(image, mask))
        if before is None:
            return
        self._note("before", contrast(image, before[1]))
        self._note("after", contrast(before[0], mask))
        overlap = dice(before[1], mask)
        self._note("overlaps", overlap)
        if overlap is not None and overlap < self.least_overlap:
            raise UserError(
                f"{where}: overlaps the masks of the section before by {overlap:.2f} (Dice), "
                f"expected {self.least_overlap} at least; shifted, damaged or out of order?"
            )

    def finish(self) -> None:
        """Judge the whole volume; raises UserError."""
        if not self.state["own"]:
            raise UserError(f"{self.path}: found no mitochondria in any mask, expected some")
        own, before, after = (self._mean(name) for name in ("own", "before", "after"))
        if own < LEAST_CONTRAST:
            raise UserError(
                f"{self.path}: mitochondria are hardly darker than their surroundings (contrast "
                f"{own:.2f}, expected {LEAST_CONTRAST} at least); masks of other sections, or "
                "shifted?"
            )
        for fit, side in ((before, "before"), (after, "after")):
            if fit > MARGIN * own:
                raise UserError(
                    f"{self.path}: sections fit the masks of the sections {side} them better than "
                    f"their own (contrast {fit:.2f} against {own:.2f}); numbered from another one?"
                )

    def __str__(self) -> str:
        overlaps = self.state["overlaps"] or [float("nan")]
        return (
            f"overlap of neighbouring masks {min(overlaps):.2f} at least, "
            f"contrast {self._mean('own'):.2f}"
        )

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self.state[name].append(round(value, 5))

    def _mean(self, name: str) -> float:
        return float(np.mean(self.state[name])) if self.state[name] else 0.0


def dice(one: np.ndarray, other: np.ndarray) -> float | None:
    """Dice overlap of two boolean masks; None where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else None


def contrast(image: np.ndarray, mask: np.ndarray) -> float | None:
    """How much darker an image is inside a boolean mask, in standard deviations of the image.

    None where the mask is empty or full.
    """
    inside = np.count_nonzero(mask)
    if inside in (0, mask.size):
        return None
    deviation = float(image.std())
    return float(image[~mask].mean() - image[mask].mean()) / deviation if deviation else 0.0


def _sampled(section: np.ndarray) -> np.ndarray:
    """At most about ``SAMPLES`` pixels along each side."""
    step = [max(1, side // SAMPLES) for side in section.shape]
    return section[:: step[0], :: step[1]].copy()
