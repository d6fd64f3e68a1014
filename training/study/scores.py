"""Scores of a study's runs, stored next to their logs as ``scores-<checkpoint>.json``.

They outlive the weights and the predictions: a run that has them is not trained again.
"""

import csv
import json
from pathlib import Path
from statistics import mean
from typing import Any

from prediction.measures import MEASURES
from prediction.outputs import SECTIONS, SUMMARY
from training.study.spec import Run
from utils.errors import UserError
from utils.paths import CONFIG_DIR, Workspace, address_of

SCORES = ("mAP", "F1", "MCC", "IoU")
STORED = (
    "scores",
    "upper_bound",
    "iteration",
    "chosen_by",
    "notes",
    "pairs",
    "seconds",
    "device",
    "precision",
    "torch",
    "revision",
    "date",
)  # keys of a prediction's summary

Summary = dict[str, Any]


def read_scores(workspace: Workspace, run: Run, checkpoint: str) -> Summary | None:
    """The summary that ``store_scores`` wrote; None if there is none."""
    try:
        return json.loads(_score_file(workspace, run, checkpoint).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def store_scores(
    workspace: Workspace, run: Run, checkpoint: str, worst: dict[str, Any] | None = None
) -> Summary:
    """Store the scores of a finished prediction, without paths of this machine.

    Args:
        workspace: holds the prediction.
        run: that predicted.
        checkpoint: that it predicted with.
        worst: the section that was drawn, if any; stored as well.

    Returns:
        The stored summary.

    Raises:
        UserError: a section that the row lists has no score.
    """
    inference = workspace.inference(run.model)
    found = json.loads((inference / SUMMARY).read_text(encoding="utf-8"))
    summary = {key: found[key] for key in STORED}
    path = Path(found["volume"]["path"])
    if path.is_relative_to(workspace.data):
        path = path.relative_to(workspace.data)
    summary["volume"] = found["volume"] | {"path": address_of(path) or path.as_posix()}
    if run.row.sections:
        scored = _rows_of(inference / SECTIONS, CONFIG_DIR / run.row.sections)
        summary["scores"] = {name: mean(float(row[name]) for row in scored) for name in SCORES}
        summary["upper_bound"] = None  # that of all sections
        summary["volume"]["shape"] = [len(scored), *summary["volume"]["shape"][1:]]
        summary["notes"] = f"{MEASURES['map']}; {run.row.sections}"
    if worst:
        summary["worst"] = worst
    file = _score_file(workspace, run, checkpoint)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _score_file(workspace: Workspace, run: Run, checkpoint: str) -> Path:
    return workspace.logs(run.name) / f"scores-{Path(checkpoint).stem}.json"


def _rows_of(table: Path, names: Path) -> list[dict[str, str]]:
    """The rows of a per-section score table that a file lists."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    wanted = names.read_text(encoding="utf-8").split()
    if missing := [name for name in wanted if not rows.get(name, {}).get("mAP")]:
        raise UserError(f"{names}: section {missing[0]} has no score")
    return [rows[name] for name in wanted]
