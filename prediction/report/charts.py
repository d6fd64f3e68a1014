"""Charts of a report, as embedded SVG."""

import base64
import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from prediction.report.tables import HISTOGRAMS, column_values, display_name, finite
from utils.optional import wanted

PURPOSE = "for --report"
# "name=value" or "name-value" in a line of a log
NUMBER = r"(\w+)[=-](nan|[-+]?inf|[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=,|\s|$)"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"  # Okabe and Ito 2008


def sections_chart(rows: list[dict[str, str]]) -> str | None:
    """F1 and IoU of each section, or without labels the predicted fraction; None without rows."""
    if not rows:
        return None
    index = column_values(rows, "section")
    if "F1" in rows[0]:
        columns = (("F1", BLUE), ("IoU", ORANGE))
        lines = [(name, column_values(rows, name), colour) for name, colour in columns]
        label = "score"
    else:
        lines = [("predicted", column_values(rows, "foreground_predicted"), BLUE)]
        label = "fraction of mitochondria"
    return _chart([(name, index, values, colour) for name, values, colour in lines],
                  "section", label)  # fmt: skip


def training_charts(logs: Path) -> list[tuple[str, str]]:
    """Curves of the losses and validation scores in a run's logs, with their titles."""
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
        if any(finite(values).any() for _, _, values, _ in curves):
            charts.append((title, _chart(curves, "iteration", "score" if file == "valid.txt"
                                         else "weighted loss")))  # fmt: skip
    return charts


def histograms(objects: list[dict[str, str]]) -> list[tuple[str, str]]:
    """Histograms of the objects' measures; objects cut off by the border in another colour."""
    border = column_values(objects, "touches_border") > 0
    charts = []
    for column in objects[0] if objects else ():
        if column.split("_")[0] not in HISTOGRAMS:
            continue
        values = column_values(objects, column)
        name, inside, cut = display_name(column), finite(values[~border]), finite(values[border])
        if len(inside) + len(cut):
            charts.append((name, _histogram(inside, cut, name)))
    return charts


def _chart(curves: list, x: str, y: str) -> str:
    """Curves (name, x, y, colour) as SVG, with gaps at values that are not finite."""
    figure, axes = _figure()
    for name, at, values, colour in curves:
        alone = len(values) == 1
        values = np.where(np.isfinite(values), values, np.nan)
        axes.plot(at, values, color=colour, label=name, linewidth=1.4, marker="o" if alone else "")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    lowest = min((low for _, _, v, _ in curves for low in finite(v)), default=0)
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
    """The figure as a data URL; the same bytes for the same data."""
    text = io.StringIO()
    matplotlib = wanted("matplotlib", PURPOSE)
    with matplotlib.rc_context({"svg.hashsalt": "report", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(text.getvalue().encode()).decode()
    return "data:image/svg+xml;base64," + encoded
