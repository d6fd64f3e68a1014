"""``scores.csv``, a row for each section, and ``summary.json``, what was run."""

import csv
import json
import math
import sys
from datetime import datetime
from typing import Any

import torch

from prediction.derived import Derived
from prediction.inference import Inference
from prediction.outputs import SECTIONS, SUMMARY
from utils.errors import writing_to
from utils.revision import git_revision


def write_summary(inference: Inference, derived: Derived, results: dict[str, Any]) -> None:
    """Write both files.

    Args:
        inference: model and volume.
        derived: of the sections.
        results: of this inference, which are added to ``summary.json``. Where the prediction is
            that of an earlier one, its time and the scores of its objects are kept.
    """
    raw, checkpoint = inference.raw, inference.checkpoint
    summary = {
        "name": inference.out.name,
        "config": inference.config.NAME,
        "command": sys.argv,
        "date": datetime.now().isoformat(timespec="seconds"),
        "revision": git_revision(),
        "torch": torch.__version__,
        "device": str(inference.network.device),
        "precision": dtype_name(inference.network.precision),
        "checkpoint": str(inference.checkpoint_path),
        "iteration": checkpoint.iteration,
        "chosen_by": checkpoint.chosen_by,
        "run": inference.model,
        "volume": {
            "path": raw.where,
            "kind": raw.kind,
            "shape": raw.shape,
            "voxel_size_nm": inference.voxel_size,
        },
        "labels": inference.labels and inference.labels.where,
        "pairs": len(inference.axes[0].pairs),
        "seconds": None,
        "measure": None,
        "threshold": inference.threshold,
        "scores": None,
        "scores_at_threshold": None,
        "upper_bound": None,
        "notes": "",
        "instance_scores": None,
    }
    with writing_to(inference.out):
        if derived.reused:
            results = _earlier(inference, summary["labels"]) | results
        _write_sections(inference, derived)
        text = json.dumps(summary | results, indent=2, ensure_ascii=False)
        (inference.out / SUMMARY).write_text(text + "\n", encoding="utf-8")


def _earlier(inference: Inference, labels: str | None) -> dict[str, Any]:
    """What the summary of an earlier inference tells of the same prediction and labels."""
    try:
        earlier = json.loads((inference.out / SUMMARY).read_text(encoding="utf-8"))
        kept = {"seconds": earlier["seconds"]}
        if earlier["labels"] == labels:
            kept["instance_scores"] = earlier["instance_scores"]
    except (OSError, ValueError, KeyError, TypeError):  # killed before it was written
        return {}
    return kept


def dtype_name(dtype: torch.dtype) -> str:
    """``float32`` for ``torch.float32``."""
    return str(dtype).removeprefix("torch.")


def _write_sections(inference: Inference, derived: Derived) -> None:
    names = inference.raw.names
    rows = [
        {"section": index, "name": names[index]} | derived.rows[index]
        for index in sorted(derived.rows)
    ]
    with (inference.out / SECTIONS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in row.items()} for row in rows)


def _cell(value: object) -> object:
    """A number to six decimals; empty where it is not defined."""
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"
