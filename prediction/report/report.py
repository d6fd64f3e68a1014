"""``--report``: one HTML file with all results of an inference and their pictures, to share."""

import json
import shlex
from pathlib import Path
from typing import Any

from dataloader.formats.opening import open_volume
from dataloader.volume import Volume
from prediction.metrics import THRESHOLD
from prediction.outputs import OBJECTS, PREDICTIONS, REPORT, SECTIONS, SUMMARY
from prediction.report.charts import PURPOSE, histograms, sections_chart, training_charts
from prediction.report.gallery import GALLERY_PART, contact_sheet, gallery
from prediction.report.tables import best_and_worst, objects_table, read_table
from prediction.threshold import Thresholded, read_threshold
from utils.files import part_of
from utils.optional import wanted

TEMPLATE = "report.html.j2"
MEANINGS = {
    "mAP": "area under the curve of precision over recall",
    "F1": "overlap 2 TP / (2 TP + FP + FN), the Dice coefficient",
    "MCC": "correlation of the two masks, from -1 to 1",
    "IoU": "overlap TP / (TP + FP + FN), the Jaccard index",
    "dice": "overlap 2 TP / (2 TP + FP + FN)",
    "jac": "overlap TP / (TP + FP + FN)",
}


def require_report() -> None:
    """Check that the packages are installed before anything is computed; raises UserError."""
    wanted("jinja2", PURPOSE)
    wanted("matplotlib", PURPOSE)


def write_report(
    folder: Path,
    raw: Volume,
    labels: Volume | None,
    logs: Path,
    stride: int,
    instances: Volume | None = None,
) -> Path:
    """Write ``report.html`` for a finished inference.

    Args:
        folder: with ``preds.hdf``, ``summary.json``, ``scores.csv`` and, if there are objects,
            ``objects.csv``.
        raw: the sections.
        labels: their masks of 0 and 1; None without labels.
        logs: folder of the training run; may not exist.
        stride: sections between the two of a pair.
        instances: the numbered mitochondria; None if they were not searched for.

    Returns:
        The file's path.

    Raises:
        UserError: a package is missing.
        OSError: the file cannot be written.
    """
    jinja2 = wanted("jinja2", PURPOSE)
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    rows = read_table(folder / SECTIONS)
    objects = read_table(folder / OBJECTS)
    probability = open_volume(folder / PREDICTIONS, keep=False)
    masks = Thresholded(probability, read_threshold(folder / PREDICTIONS))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    html = environment.get_template(TEMPLATE).render(
        title=summary["name"],
        facts=_facts(summary),
        scores=[
            (name, f"{value:.4f}", MEANINGS.get(name, ""))
            for name, value in (summary["scores"] or {}).items()
        ],
        upper_bound="upper bound" in summary["chosen_by"],
        notes=summary["notes"],
        instance_scores=summary["instance_scores"],
        sections_chart=sections_chart(rows),
        extremes=best_and_worst(rows),
        gallery=gallery(raw, masks, labels, instances, stride, rows),
        has_labels=labels is not None,
        stride=stride,
        part=GALLERY_PART if max(raw.shape[1:]) > GALLERY_PART else None,
        training=training_charts(logs),
        objects=objects_table(objects),
        histograms=histograms(objects),
        sheet=contact_sheet(raw, masks),
    )
    part = part_of(folder / REPORT)
    part.write_text(html, encoding="utf-8")
    part.replace(folder / REPORT)
    return folder / REPORT


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """Names and values of what was run."""
    volume, blank, seconds = summary["volume"], summary.get("blank"), summary["seconds"]
    size = volume["voxel_size_nm"]
    return [
        ("volume", f"{volume['path']} ({volume['kind']})"),
        ("sections", "{} of {} x {} pixels".format(*volume["shape"])),
        ("voxel (z, y, x)", " x ".join(f"{s:g}" for s in size) + " nm" if size else "unknown"),
        *([("blank areas", f"{blank:.2%} of the volume: not scored")] if blank else []),
        ("labels", summary["labels"] or "none: nothing could be scored"),
        ("masks", f"probability >= {summary.get('threshold', THRESHOLD):g}"),
        ("model", f"{summary['run']}, iteration {summary['iteration']}"),
        ("checkpoint", summary["checkpoint"]),
        ("chosen by", summary["chosen_by"]),
        ("config", summary["config"]),
        ("command", shlex.join(summary["command"])),
        ("date", summary["date"]),
        ("prediction", (f"{seconds:g} s" if seconds is not None else "done earlier")
                       + f", {summary['pairs']} pairs of sections, on {summary['device']} in "
                       f"{summary['precision']}"),
        ("software", f"revision {summary['revision']}, torch {summary['torch']}"),
    ]  # fmt: skip
