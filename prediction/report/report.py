"""``--report``: one HTML file of an inference, with all its pictures in it, to send to somebody."""

import base64
import csv
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dataloader.formats.opening import open_volume
from dataloader.volume import Volume, resample
from prediction.metrics import THRESHOLD
from prediction.outputs import REPORT
from prediction.pictures import contours, grey, instances_picture
from utils.optional import wanted

PURPOSE = "for --report"
TEMPLATE = "report.html.j2"
GALLERY, GALLERY_SIDE = 6, 560  # sections shown large, and pixels of their longer side
GALLERY_PART = 1120  # pixels; of larger sections the middle is shown
SHEET, SHEET_SIDE, SHEET_COLUMNS = 24, 200, 6  # sections of the contact sheet
QUALITY = 82  # of JPEG
# a name and its value in a line of a log
NUMBER = r"(\w+)[=-](nan|[-+]?inf|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=,|\s|$)"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # Okabe and Ito 2008
ONLY_HERE, ONLY_THERE = (213, 94, 0), (0, 114, 178)  # RGB of orange and blue
MEANINGS = {
    "mAP": "area under the curve of precision over recall",
    "F1": "overlap 2 TP / (2 TP + FP + FN), the Dice coefficient",
    "MCC": "correlation of the two masks, from -1 to 1",
    "IoU": "overlap TP / (TP + FP + FN), the Jaccard index",
    "dice": "overlap 2 TP / (2 TP + FP + FN)",
    "jac": "overlap TP / (TP + FP + FN)",
}
HISTOGRAMS = {"volume": "volume", "surface": "surface", "elongation": "elongation",
              "sections": "sections spanned"}  # fmt: skip


def require_report() -> None:
    """Ask for the packages before anything is computed; raises UserError."""
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
    """Write ``report.html`` of a finished inference.

    Args:
        folder: holds ``preds.hdf``, ``summary.json``, ``scores.csv`` and perhaps ``objects.csv``.
        raw: the sections.
        labels: their masks of 0 and 1, if there are any.
        logs: folder of the training run; may be missing.
        stride: sections between the two of a pair.
        instances: the mitochondria by numbers, if they were looked for.

    Returns:
        The file's path.

    Raises:
        UserError: a package is missing.
        OSError: it cannot be written.
    """
    jinja2 = wanted("jinja2", PURPOSE)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    rows = _table(folder / "scores.csv")
    objects = _table(folder / "objects.csv")
    prediction = open_volume(folder / "preds.hdf", keep=False)
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
        sections_chart=_sections_chart(rows),
        extremes=_extremes(rows),
        gallery=_gallery(raw, prediction, labels, instances, stride, rows),
        has_labels=labels is not None,
        stride=stride,
        part=GALLERY_PART if max(raw.shape[1:]) > GALLERY_PART else None,
        training=_training_charts(logs),
        objects=_objects_table(objects),
        histograms=_histograms(objects),
        sheet=_contact_sheet(raw, prediction),
    )
    part = folder / f"{REPORT}.part"
    part.write_text(html, encoding="utf-8")
    part.replace(folder / REPORT)
    return folder / REPORT


def _facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What was run, as names and values."""
    volume, blank, seconds = summary["volume"], summary.get("blank"), summary["seconds"]
    size = volume["voxel_size_nm"]
    return [
        ("volume", f"{volume['path']} ({volume['kind']})"),
        ("sections", "{} of {} x {} pixels".format(*volume["shape"])),
        ("voxel (z, y, x)", " x ".join(f"{s:g}" for s in size) + " nm" if size else "unknown"),
        *([("blank areas", f"{blank:.2%} of the volume: not scored")] if blank else []),
        ("labels", summary["labels"] or "none: nothing could be scored"),
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


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    """A column as floats, NaN where it is empty; empty if there is no such column."""
    if not rows or column not in rows[0]:
        return np.zeros(0)
    return np.array([float(row[column]) if row[column] else np.nan for row in rows])


def _extremes(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """Names and F1 of the worst and the best sections."""
    f1 = _numbers(rows, "F1")
    if not len(f1):
        return []
    order = [i for i in np.argsort(f1, kind="stable") if np.isfinite(f1[i])]
    few = min(3, len(order) // 2)
    chosen = [("worst", i) for i in order[:few]] + [("best", i) for i in order[::-1][:few]]
    return [(kind, rows[i]["name"], f"{f1[i]:.3f}") for kind, i in chosen]


def _gallery(
    raw: Volume,
    prediction: Volume,
    labels: Volume | None,
    instances: Volume | None,
    stride: int,
    rows: list[dict[str, str]],
) -> list[dict[str, str]]:
    """Large pictures of some sections, evenly spaced."""
    f1 = _numbers(rows, "F1")
    entries = []
    for index in spaced(len(raw), GALLERY):
        other = index + stride if index + stride < len(raw) else index - stride
        name = raw.names[index]
        scored = index < len(f1) and np.isfinite(f1[index])
        entry = {"name": name, "score": f"F1 {f1[index]:.3f}" if scored else ""}
        small = fitting(_middle(raw, index).shape, GALLERY_SIDE)
        image = resample(_middle(raw, index), small)
        mask = _small(_middle(prediction, index) >= THRESHOLD, small)
        label = None if labels is None else _small(_middle(labels, index) == 1, small)
        entry["contours"] = _jpeg(contours(image, mask, label, 1))
        if 0 <= other < len(raw):
            there = _small(_middle(prediction, other) >= THRESHOLD, small)
            entry["residual"] = _jpeg(_residual(image, mask, there))
            entry["other"] = raw.names[other]
        if instances is not None:
            numbers = _nearest(_middle(instances, index), small)
            entry["instances"] = _jpeg(instances_picture(image, numbers))
        entries.append(entry)
    return entries


def _middle(volume: Volume, index: int) -> np.ndarray:
    """A section, or of a large one the middle."""
    _, height, width = volume.shape
    y, x = (max(0, (side - GALLERY_PART) // 2) for side in (height, width))
    return volume.crop(index, y, x, GALLERY_PART, GALLERY_PART)


def _residual(image: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    picture = grey(image) // 2 + 64
    picture[(here > 0) & (there == 0)] = ONLY_HERE
    picture[(here == 0) & (there > 0)] = ONLY_THERE
    return picture


def _contact_sheet(raw: Volume, prediction: Volume) -> str:
    """Thumbnails along z with the predicted masks, in one picture."""
    panels = []
    for index in spaced(len(raw), SHEET):
        small = fitting(raw.shape[1:], SHEET_SIDE)
        mask = _small(prediction.section(index) >= THRESHOLD, small)
        panel = contours(resample(raw.section(index), small), mask, None, 1)
        text = str(index)
        for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
            cv2.putText(
                panel, text, (5, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA
            )
        panels.append(np.pad(panel, ((2, 2), (2, 2), (0, 0)), constant_values=255))
    columns = min(SHEET_COLUMNS, len(panels))
    blank = np.full_like(panels[0], 255)
    panels += [blank] * (-len(panels) % columns)
    lines = [
        np.concatenate(panels[start : start + columns], axis=1)
        for start in range(0, len(panels), columns)
    ]
    return _jpeg(np.concatenate(lines))


def spaced(sections: int, count: int) -> list[int]:
    """So many evenly spaced sections of a volume, no more than it has."""
    return sorted(set(np.linspace(0, sections - 1, min(count, sections)).round().astype(int)))


def fitting(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """The shape whose longer side is at most ``side``."""
    scale = min(1.0, side / max(shape))
    height, width = (max(1, round(length * scale)) for length in shape)
    return height, width


def _small(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return (resample(mask.astype(np.float32), shape) >= 0.5).astype(np.uint8)


def _nearest(numbers: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = (
        np.arange(length) * full // length
        for length, full in zip(shape, numbers.shape, strict=True)
    )
    return numbers[np.ix_(rows, columns)]


def _jpeg(picture: np.ndarray) -> str:
    """An RGB picture as the address of an embedded JPEG."""
    bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()


def _sections_chart(rows: list[dict[str, str]]) -> str | None:
    """F1 and IoU, or else the predicted fraction, of each section."""
    if not rows:
        return None
    index = _numbers(rows, "section")
    if "F1" in rows[0]:
        lines = [("F1", _numbers(rows, "F1"), BLUE), ("IoU", _numbers(rows, "IoU"), ORANGE)]
        label = "score"
    else:
        lines = [("predicted", _numbers(rows, "foreground_predicted"), BLUE)]
        label = "fraction of mitochondria"
    return _chart([(name, index, values, colour) for name, values, colour in lines],
                  "section", label)  # fmt: skip


def _training_charts(logs: Path) -> list[tuple[str, str]]:
    """Curves of the run's losses and validations."""
    charts = []
    kinds = {
        "supervised losses on the source": ("loss.txt", {
            "loss_cpred": "current", "loss_apred": "auxiliary", "loss_diff": "residual"}),
        "adaptation losses on the target": ("loss_adv.txt", {
            "loss_cross": "consistency", "loss_adv_spatial": "adversarial, masks",
            "loss_adv_temporal": "adversarial, residual"}),
        "validation": ("valid.txt", {"dice": "dice", "jac": "Jaccard", "F1": "F1"}),
    }  # fmt: skip
    for title, (file, names) in kinds.items():
        path = logs / file
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        rows = [dict(re.findall(NUMBER, line)) for line in lines]
        steps = np.array([float(row.get("step", row.get("model", "nan"))) for row in rows])
        curves = [
            (name, steps, np.array([float(row.get(key, "nan")) for row in rows]), colour)
            for (key, name), colour in zip(names.items(), (BLUE, ORANGE, GREEN), strict=True)
            if any(key in row for row in rows)
        ]
        if any(_finite(values).any() for _, _, values, _ in curves):
            charts.append((title, _chart(curves, "iteration", "score" if file == "valid.txt"
                                         else "weighted loss")))  # fmt: skip
    return charts


def _objects_table(objects: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Median and range of the objects' measures."""
    lines = []
    for column in objects[0] if objects else ():
        key = column.split("_")[0]
        if key in HISTOGRAMS and not column.startswith("sections_"):
            values = _finite(_numbers(objects, column))
            if not len(values):
                continue
            low, middle, high = np.percentile(values, [5, 50, 95])
            lines.append((_named(column), f"{middle:.3g}", f"{low:.3g}", f"{high:.3g}"))
    return lines


def _histograms(objects: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Histograms of the objects' measures, those cut off by the border apart."""
    border = _numbers(objects, "touches_border") > 0
    charts = []
    for column in objects[0] if objects else ():
        if column.split("_")[0] not in HISTOGRAMS:
            continue
        values = _numbers(objects, column)
        name, inside, cut = _named(column), _finite(values[~border]), _finite(values[border])
        if len(inside) + len(cut):
            charts.append((name, _histogram(inside, cut, name)))
    return charts


def _named(column: str) -> str:
    """volume_um3 as "volume (um³)"."""
    key, _, unit = column.partition("_")
    unit = unit.replace("um", "µm").replace("vox", "voxel").replace("2", "²").replace("3", "³")
    return HISTOGRAMS[key] + (f" ({unit})" if unit else "")


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _chart(curves: list, x: str, y: str) -> str:
    """Curves (name, x, y, colour) as SVG, with gaps where they are not finite."""
    figure, axes = _figure()
    for name, at, values, colour in curves:
        alone = len(values) == 1
        values = np.where(np.isfinite(values), values, np.nan)
        axes.plot(at, values, color=colour, label=name, linewidth=1.4, marker="o" if alone else "")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    lowest = min((low for _, _, v, _ in curves for low in _finite(v)), default=0)
    axes.set_ylim(bottom=0 if lowest >= 0 else None)
    if x == "section":
        axes.xaxis.get_major_locator().set_params(integer=True)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _histogram(inside: np.ndarray, cut: np.ndarray, x: str) -> str:
    figure, axes = _figure()
    both = np.concatenate([inside, cut])
    wide = both.min() > 0 and both.max() / both.min() > 50
    if wide:
        bins = np.geomspace(both.min(), both.max(), 25)
        axes.set_xscale("log")
    else:
        bins = np.linspace(both.min(), max(both.max(), both.min() + 1e-9), 25)
    axes.hist([inside, cut], bins, stacked=True, color=[BLUE, GREY],
              label=["whole", "cut off by the volume's border"])  # fmt: skip
    axes.set_xlabel(x)
    axes.set_ylabel("mitochondria")
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _figure() -> tuple[Any, Any]:
    figure = wanted("matplotlib.figure", PURPOSE).Figure(figsize=(5.2, 2.6), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an embedded picture, the same bytes for the same data."""
    text = io.StringIO()
    matplotlib = wanted("matplotlib", PURPOSE)
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(text.getvalue().encode()).decode()
    return "data:image/svg+xml;base64," + encoded
