"""The checkpoint files of a run."""

from pathlib import Path

from torch import nn

from model.checkpoint import (
    AVERAGE,
    BEST,
    CHOSEN_AVERAGE,
    CHOSEN_BEST,
    CHOSEN_LAST,
    LAST,
    MODEL,
    Checkpoint,
    save_checkpoint,
)
from training.learner import Learner
from utils.config.schema import Config


class Checkpoints:
    """Writes the checkpoints of a run, in the published format.

    Args:
        folder: ``models/<run>``.
        learner: has the segmentor and the average of its weights.
        config: of the run.

    Attributes:
        score: of the last validation; None before the first.
        best: the checkpoint with the highest score.
    """

    def __init__(self, folder: Path, learner: Learner, config: Config) -> None:
        self.folder, self.learner, self.config = folder, learner, config
        self.score: float | None = None
        self.best: Checkpoint | None = None

    def offer(self, iteration: int, score: float) -> None:
        """Save the current weights as the best ones if the score is the highest so far."""
        self.score = score
        if self.best is None or score > self.best.valid_result:
            self.best = _copied(self._checkpoint(iteration, CHOSEN_BEST))
            save_checkpoint(self.folder / BEST, self.best)

    def write(self, iteration: int, suffix: str = "") -> None:
        """Write ``last.ckpt`` and ``average.ckpt``, with a suffix appended to their stems.

        Without a suffix, also write ``model.ckpt``: the one that ``TRAIN.choose_by`` selects.
        """
        last = self._checkpoint(iteration, CHOSEN_LAST)
        average = self._checkpoint(iteration, CHOSEN_AVERAGE, self.learner.average.network)
        written = {LAST: last, AVERAGE: average}
        if not suffix:
            written[MODEL] = last if self.config.TRAIN.choose_by == "last" else average
        for name, checkpoint in written.items():
            path = self.folder / name
            save_checkpoint(path.with_stem(path.stem + suffix), checkpoint)

    def restore(self, iteration: int) -> None:
        """Write the files of an iteration again and delete those of later iterations."""
        self.write(iteration)
        if self.best:
            save_checkpoint(self.folder / BEST, self.best)
        else:
            (self.folder / BEST).unlink(missing_ok=True)
        for path in self.folder.glob("*-*.ckpt"):
            number = path.stem.rpartition("-")[2]
            if number.isdecimal() and int(number) > iteration:
                path.unlink()

    def state_dict(self) -> dict:
        """The last score and the best checkpoint."""
        return {"score": self.score, "best": self.best and self.best._asdict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned."""
        self.score, best = state["score"], state["best"]
        # early states have more fields
        self.best = best and Checkpoint(**{key: best[key] for key in Checkpoint._fields})

    def _checkpoint(
        self, iteration: int, rule: str, network: nn.Module | None = None
    ) -> Checkpoint:
        """A checkpoint of the segmentor or of ``network``; it shares their weights."""
        network = network or self.learner.networks["segmentor"]
        pixel_size = self.config.DATA.pixel_size_working
        return Checkpoint(network.state_dict(), iteration, self.score, rule, pixel_size)


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with a copy of the weights, on the CPU."""
    weights = {name: value.cpu().clone() for name, value in checkpoint.weights.items()}
    return checkpoint._replace(weights=weights)
