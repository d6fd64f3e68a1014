"""Tables of a report: ``scores.csv`` and ``objects.csv``, by column."""

import csv
from pathlib import Path

import numpy as np

HISTOGRAMS = {"volume": "volume", "surface": "surface", "elongation": "elongation",
              "sections": "sections spanned"}  # fmt: skip


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; empty if there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def column_values(rows: list[dict[str, str]], column: str) -> np.ndarray:
    """A column as float64, NaN for empty cells; an empty array if there is no such column."""
    if not rows or column not in rows[0]:
        return np.zeros(0)
    return np.array([float(row[column]) if row[column] else np.nan for row in rows])


def finite(values: np.ndarray) -> np.ndarray:
    """The values that are finite."""
    return values[np.isfinite(values)]


def best_and_worst(rows: list[dict[str, str]]) -> list[tuple[str, str, str]]:
    """The worst and the best sections: "worst" or "best", name and F1 of each."""
    f1 = column_values(rows, "F1")
    if not len(f1):
        return []
    order = [i for i in np.argsort(f1, kind="stable") if np.isfinite(f1[i])]
    few = min(3, len(order) // 2)
    chosen = [("worst", i) for i in order[:few]] + [("best", i) for i in order[::-1][:few]]
    return [(kind, rows[i]["name"], f"{f1[i]:.3f}") for kind, i in chosen]


def objects_table(objects: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    """Median, 5th and 95th percentile of each of the objects' measures."""
    lines = []
    for column in objects[0] if objects else ():
        key = column.split("_")[0]
        if key in HISTOGRAMS and not column.startswith("sections_"):
            values = finite(column_values(objects, column))
            if not len(values):
                continue
            low, middle, high = np.percentile(values, [5, 50, 95])
            lines.append((display_name(column), f"{middle:.3g}", f"{low:.3g}", f"{high:.3g}"))
    return lines


def display_name(column: str) -> str:
    """``volume_um3`` as "volume (µm³)"."""
    key, _, unit = column.partition("_")
    unit = unit.replace("um", "µm").replace("vox", "voxel").replace("2", "²").replace("3", "³")
    return HISTOGRAMS[key] + (f" ({unit})" if unit else "")
