"""What each rule for a checkpoint would have cost a run, by labels of the target.

Regret: the best score of any checkpoint kept in the second half of the run, of network and average
alike, less that of the one a rule of ``training.checkpoint_choice`` chooses among them.
"""

import json
import math
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import torch

from dataloader.roles import at_common_size, open_images, open_labels
from model.checkpoint import (
    AVERAGE,
    LAST,
    MODEL,
    load_checkpoint,
    save_checkpoint,
    segmentor_from,
)
from model.segmentor import Segmentor
from prediction.metrics import THRESHOLD, Counts
from prediction.predictor import NetworkPredictor
from prediction.volume import choose_pairs, choose_windows, predict_on_grid
from training.checkpoint_choice import Source, TargetLook, chosen_by, cost
from training.monitor import TargetMeasures
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.paths import Workspace
from utils.progress import progress

SCORED_PAIRS = 16  # of sections, evenly spaced
EXAMINED = "checkpoints.json"


class Snapshot(NamedTuple):
    """A kept checkpoint.

    Attributes:
        file: its name.
        iteration: after which it was kept.
        averaged: whether it is the average of the weights.
        measures: on the target, without labels.
        f1: mean over evenly spaced sections, by the labels, for the regret alone; NaN without.
    """

    file: str
    iteration: int
    averaged: bool
    measures: TargetMeasures
    f1: float


def choose(rule: str, snapshots: list[Snapshot], source: Source) -> Snapshot:
    """The checkpoint that a rule chooses; the last average where the guard leaves none."""
    final = max(s.iteration for s in snapshots)
    last = {s.averaged: s for s in snapshots if s.iteration == final}
    if rule in ("last", "average"):
        return last[rule == "average"]
    costs = [cost(rule, snapshot.measures, source) for snapshot in snapshots]
    least = min(costs)
    return snapshots[costs.index(least)] if math.isfinite(least) else last[True]


def regret(rule: str, snapshots: list[Snapshot], source: Source) -> float:
    """What is lost in F1 against the best of all on the labels, >= 0."""
    return max(s.f1 for s in snapshots) - choose(rule, snapshots, source).f1


class Examination:
    """Measures a run's kept checkpoints, with labels and without.

    Args:
        config: of the run.
        workspace: data root and output folder.
        device: to predict on.

    Raises:
        UserError: a volume is missing.
    """

    def __init__(self, config: Config, workspace: Workspace, device: torch.device) -> None:
        data = at_common_size(workspace, config.DATA)
        self.device = device
        labels = open_labels(workspace, data, "source")
        target = open_images(workspace, data, "target")
        self.look = TargetLook(target, labels, data.target_stride, data.crop)
        self.labels = open_labels(workspace, data, "val", working=False)
        if self.labels is None:
            return
        self.volume = open_images(workspace, data, "val")
        self.windows = choose_windows(config, self.volume)
        pairs = choose_pairs(config, self.volume)
        count = min(SCORED_PAIRS, len(pairs))
        self.pairs = sorted(pairs)[:: max(1, len(pairs) // count)][:count]

    def __call__(self, path: Path) -> Snapshot:
        """Measure one checkpoint."""
        checkpoint = load_checkpoint(path)
        segmentor = segmentor_from(checkpoint, path).to(self.device)
        with torch.inference_mode():
            measures = self.look.measure(segmentor, self.device)
        averaged = path.stem.startswith(Path(AVERAGE).stem)
        f1 = math.nan if self.labels is None else self._f1(segmentor)
        return Snapshot(path.name, checkpoint.iteration, averaged, measures, f1)

    def _f1(self, segmentor: Segmentor) -> float:
        """Mean over evenly spaced sections."""
        predict = NetworkPredictor(segmentor, self.device)
        sections = predict_on_grid(
            predict, self.volume, self.pairs, self.windows, self.labels.shape[1:]
        )
        return mean(
            Counts.of(probability >= THRESHOLD, self.labels.section(index)).f1
            for index, probability in sections
        )


def kept_checkpoints(folder: Path) -> list[Path]:
    """What ``TRAIN.keep_checkpoints`` has left of the second half, as training looks at it."""
    found = [path for name in (LAST, AVERAGE) for path in folder.glob(f"{Path(name).stem}-*.ckpt")]
    order = {path: int(path.stem.rpartition("-")[2]) for path in found}
    final = max(order.values(), default=0)
    paths = [path for path in found if 2 * order[path] > final]
    return sorted(paths, key=order.get)  # the network before its average


def examine(
    config: Config, workspace: Workspace, run: str, device: torch.device
) -> tuple[list[Snapshot], Source]:
    """Measure all kept checkpoints of a run; leaves ``checkpoints.json`` beside its logs.

    Raises:
        UserError: none is kept.
    """
    folder = workspace.models(config.TRAIN.save_path, run)
    paths = kept_checkpoints(folder)
    if not paths:
        raise UserError(
            f"{folder}: found no kept checkpoint; train with --set TRAIN.keep_checkpoints=true"
        )
    look = Examination(config, workspace, device)
    snapshots = [look(path) for path in progress(paths, len(paths), "checkpoint")]
    content = {"source": look.look.source, "snapshots": [s._asdict() for s in snapshots]}
    logs = workspace.logs(run)
    part = logs / f"{EXAMINED}.part"
    with writing_to(logs):
        logs.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1), encoding="utf-8")
        part.replace(logs / EXAMINED)
    return snapshots, look.look.source


def read_examined(logs: Path) -> tuple[list[Snapshot], Source] | None:
    """What ``examine`` has left in a run's log folder; None where it has not."""
    try:
        content = json.loads((logs / EXAMINED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    snapshots = [
        Snapshot(**(entry | {"measures": TargetMeasures(*entry["measures"])}))
        for entry in content["snapshots"]
    ]
    return snapshots, Source(*content["source"])


def keep_chosen(folder: Path, rule: str, chosen: Snapshot) -> Path:
    """Make a kept checkpoint the run's ``model.ckpt``, which then names the rule."""
    checkpoint = load_checkpoint(folder / chosen.file)
    path = folder / MODEL
    save_checkpoint(path, checkpoint._replace(chosen_by=chosen_by(rule)))
    return path
