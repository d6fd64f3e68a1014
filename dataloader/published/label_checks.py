"""Check that masks match their sections."""

from pathlib import Path

import numpy as np

from utils.errors import UserError

SAMPLES = 1024  # pixels sampled along each side of a section
LEAST_CONTRAST = 0.3  # 0.8 to 1.0 on VNC III, Lucchi and FAFB; 0.1 with masks of another stack
MARGIN = 1.05  # largest gain in contrast with neighbours' masks; VNC III 0.79, Lucchi 1.003


class LabelChecks:
    """Checks sections and their masks in order, and raises UserError if they do not match.

    The masks of neighbouring sections must overlap. Pixels in a mask must be darker than the rest,
    and darker than with the mask of a neighbouring section.

    Args:
        path: of the volume, for messages.
        least_overlap: smallest plausible Dice overlap of the masks of neighbouring sections.
    """

    def __init__(self, path: Path, least_overlap: float) -> None:
        self.path, self.least_overlap = path, least_overlap
        self.overlaps: list[float] = []
        # of each section with its own mask, and with the masks of the sections before and after
        self.contrasts: dict[str, list[float]] = {"own": [], "before": [], "after": []}
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, image: np.ndarray, mask: np.ndarray, where: str) -> None:
        """Check the next section.

        Args:
            image: (H, W) uint8.
            mask: (H, W) uint8 of 0 and 1.
            where: path of the mask, for messages.

        Raises:
            UserError: the mask does not overlap with the previous one.
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
                    f"{where}: the mask overlaps with that of the previous section by "
                    f"{overlap:.2f} (Dice), expected at least {self.least_overlap}; is it shifted, "
                    "damaged or out of order?"
                )
            self.overlaps.append(overlap)
        self.last = image, mask

    def finish(self) -> None:
        """Check the volume as a whole; raises UserError."""
        if not self.contrasts["own"]:
            raise UserError(f"{self.path}: there are no mitochondria in the masks")
        own = self._mean("own")
        if own < LEAST_CONTRAST:
            raise UserError(
                f"{self.path}: mitochondria are hardly darker than their surroundings (contrast "
                f"{own:.2f}, expected at least {LEAST_CONTRAST}); are the masks shifted, or those "
                "of other sections?"
            )
        for side in ("before", "after"):
            if self._mean(side) > MARGIN * own:
                raise UserError(
                    f"{self.path}: sections fit the masks of the sections {side} them better than "
                    f"their own (contrast {self._mean(side):.2f} against {own:.2f}); are the "
                    "sections numbered differently?"
                )

    def __str__(self) -> str:
        return (
            f"overlap of neighbouring masks at least {min(self.overlaps, default=1):.2f}, "
            f"contrast {self._mean('own'):.2f}"
        )

    def _note(self, name: str, image: np.ndarray, mask: np.ndarray) -> None:
        if 0 < np.count_nonzero(mask) < mask.size:
            self.contrasts[name].append(contrast(image, mask))

    def _mean(self, name: str) -> float:
        return float(np.mean(self.contrasts[name] or [0]))


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Dice overlap of two boolean masks; 1 if both are empty."""
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
