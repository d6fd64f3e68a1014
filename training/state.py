"""What a run keeps: checkpoints of its weights, and the state it resumes from."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    PREVIOUS_STATE,
    TRAINING_STATE,
    Checkpoint,
    check_finite,
    load_checkpoint,
    load_state,
    save_checkpoint,
    save_whole,
)
from training.learner import Learner
from training.resuming import changes
from utils.config.schema import Config
from utils.errors import UserError
from utils.paths import Workspace


class Checkpoints:
    """The checkpoint files of a run, as the published code writes them.

    Args:
        folder: of the run.
        learner: whose segmentor, and average of it, they hold.
        config: of the run.

    Attributes:
        score: of the last validation.
        best: the checkpoint of the best one.
    """

    def __init__(self, folder: Path, learner: Learner, config: Config) -> None:
        self.folder, self.learner, self.config = folder, learner, config
        self.score: float | None = None
        self.best: Checkpoint | None = None

    def offer(self, iteration: int, score: float) -> None:
        """Keep the weights if no validation of the run had a higher score."""
        self.score = score
        if self.best is None or score > self.best.valid_result:
            self.best = _copied(self._checkpoint(iteration, CHOSEN_BEST))
            save_checkpoint(self.folder / BEST, self.best)

    def write(self, iteration: int, suffix: str = "") -> None:
        """Write ``last.ckpt`` and ``average.ckpt``, with a suffix to their stems.

        Without one ``model.ckpt`` as well: the one of the two that ``TRAIN.choose_by`` names.
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
        """Make the files what they were after an iteration; later ones are deleted."""
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
        """The scores and the best checkpoint, to resume from."""
        return {"score": self.score, "best": self.best and self.best._asdict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what ``state_dict`` returned."""
        self.score, best = state["score"], state["best"]
        # earlier states have fields that are gone
        self.best = best and Checkpoint(**{key: best[key] for key in Checkpoint._fields})

    def _checkpoint(
        self, iteration: int, rule: str, network: nn.Module | None = None
    ) -> Checkpoint:
        """The segmentor, or another network, as it is now; its weights go on changing."""
        network = network or self.learner.networks["segmentor"]
        pixel_size = self.config.DATA.pixel_size_working
        return Checkpoint(network.state_dict(), iteration, self.score, rule, pixel_size)


def _copied(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint with weights that no longer change, on the CPU."""
    weights = {name: value.cpu().clone() for name, value in checkpoint.weights.items()}
    return checkpoint._replace(weights=weights)


@contextmanager
def unfit(path: Path) -> Iterator[None]:
    """Tell the user of a state that does not fit, whatever is wrong with it."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: not the state of such a run ({reason})") from None


def write_state(folder: Path, state: dict) -> None:
    """Write what a run resumes from; the file before it is kept."""
    save_whole(folder / TRAINING_STATE, state, previous=PREVIOUS_STATE)


def read_state(workspace: Workspace, config: Config, run: str) -> tuple[dict, Path, list[str]]:
    """The state that a run resumes from, compared with its config.

    Args:
        workspace: has the output folder.
        config: of the run that goes on.
        run: its name; ``TRAIN.model_name`` may name another to start from.

    Returns:
        The state, its path, and warnings for the run's log.

    Raises:
        UserError: there is none, it is damaged, or it is of another run than this config's.
    """
    train = config.TRAIN
    earlier = train.model_name or run
    state, path, warning = load_state(workspace.models(train.save_path, earlier))
    with unfit(path):
        fixed, warned = changes(state.get("config", {}), config)
        for network in state["networks"].values():
            check_finite(path, network)
        if "best" not in state:  # of a file of its own, before states held it
            scored = state.get("best_score") is not None
            best = load_checkpoint(path.with_name(BEST)) if scored else None
            state["best"] = best and best._asdict()
        iteration = int(state["iteration"])
    if fixed and earlier == run:
        raise UserError(
            f"{path}: the run was begun with another config ({'; '.join(fixed)}); give that "
            "config, or --run-name NAME for a new run"
        )
    if iteration >= train.total_iters and not state.get("unvalidated"):
        raise UserError(
            f"{path}: the run is done, at iteration {iteration} of TRAIN.total_iters "
            f"{train.total_iters}"
        )
    warnings = [warning] if warning else []
    warnings += [
        f"{change}; from here on it is not the run that was begun" for change in (*fixed, *warned)
    ]
    return state, path, warnings
