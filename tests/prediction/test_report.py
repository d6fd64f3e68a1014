"""The report: what it says, what it leaves out, that it is one sound file."""

import base64
import csv
import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from dataloader.synthetic import make_volume
from dataloader.volume import Volume
from prediction.report.report import write_report

SECTIONS = 9
VOID = {"meta", "img", "br"}
NASTY = "<script>alert(1)</script> & ärger.png"


class Stack(Volume):
    """A volume in memory that keeps account of what is read at a time."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(array.shape)
        self.array, self.reads = array, 0
        self.path = Path("stack")

    @property
    def names(self) -> list[str]:
        return [f"{index}{NASTY}" for index in range(len(self))]

    def section(self, index: int) -> np.ndarray:
        self.reads += 1
        return self.array[index]


class Balance(HTMLParser):
    """Checks that tags are closed in order, and collects addresses and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.alternatives: list[str] = []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = dict(attributes)
        self.addresses += [v for k, v in values.items() if k in ("src", "href")]
        if tag == "img":
            self.alternatives.append(values.get("alt", ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def result(tmp_path: Path) -> tuple[Path, Stack, Stack]:
    """An inference's folder with all its parts, the sections, the masks."""
    images, labels = make_volume(2, (SECTIONS, 96, 128))
    folder = tmp_path / "inference"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with h5py.File(folder / "preds.hdf", "w") as file:
        file["main"] = np.clip(labels / 255 + rng.normal(0, 0.3, labels.shape), 0, 1).astype("f4")
    columns = ["section", "name", "mAP", "F1", "MCC", "IoU"]
    columns += ["foreground_predicted", "foreground_label"]
    with (folder / "scores.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for index in range(SECTIONS):
            writer.writerow([index, f"{index}{NASTY}", "", 0.5 + index / 20, 0.5, 0.4, 0.1, 0.1])
    with (folder / "objects.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "volume_um3", "sections", "elongation", "touches_border"])
        for n in range(40):
            writer.writerow([n, 0.01 * 1.2**n, 1 + n % 5, 1 + n / 10, n % 2])
    summary = {
        "name": f"run {NASTY}", "config": "tiny", "command": ["inference.py", "-mn", NASTY],
        "date": "2026-01-02T03:04:05", "revision": "abc123", "torch": "2.13.0", "device": "cpu",
        "precision": "float32", "checkpoint": "models/m/model.ckpt", "iteration": 4321,
        "chosen_by": "last", "run": "m", "pairs": 8, "seconds": 12.5, "measure": "map",
        "volume": {"path": NASTY, "kind": "folder", "shape": [SECTIONS, 96, 128],
                   "voxel_size_nm": [40, 8, 8]},
        "labels": "l", "scores": {"mAP": 0.7711, "F1": 0.6622, "MCC": 0.5533, "IoU": 0.4444},
        "notes": "map: per section", "instance_scores": {"AP50": 0.3131, "AP75": 0.1212},
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "loss.txt").write_text(
        "".join(f"step={s}, loss=3.0, loss_cpred={1 / s}, loss_apred=1.0, loss_diff=1e-05\n"
                for s in (1, 2, 3))
    )  # fmt: skip
    (logs / "valid.txt").write_text("model-500, dice=0.580416, jac=0.411523\n")
    return folder, Stack(images), Stack((labels > 0).astype(np.uint8))


def written(result: tuple, labels: bool = True) -> tuple[str, Balance]:
    folder, raw, masks = result
    path = write_report(folder, raw, masks if labels else None, folder.parent / "logs", 2)
    text = path.read_text(encoding="utf-8")
    balance = Balance()
    balance.feed(text)
    assert balance.open == []
    return text, balance


def test_it_says_all_and_needs_nothing_else(result) -> None:
    text, balance = written(result)
    plain = html.unescape(text)
    scores = ["0.7711", "0.6622", "0.5533", "0.4444", "0.3131", "0.1212", "F1 0.500", "F1 0.900"]
    run = ["4321", "abc123", "12.5 s", "40 x 8 x 8 nm", "2026-01-02", "float32"]
    for part in scores + run:
        assert part in plain
    assert balance.addresses
    assert all(address.startswith("data:image/") for address in balance.addresses)
    assert all(balance.alternatives)
    assert "script>alert" not in text.replace("&lt;script&gt;alert", "")
    assert plain.count(NASTY) > 5
    assert "upper bound" not in text
    assert not re.search(r"<script|https?://(?!www\.w3\.org)", text)
    assert len(text) < 4e6
    assert written(result)[0] == text


def charts(text: str) -> dict[str, str]:
    """Charts as SVG, by the names that their pictures have."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]*)"', text)
    return {alt: base64.b64decode(data).decode() for data, alt in found}


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "", "1e-"])
def test_a_number_that_is_not_finite_leaves_a_gap(result, value: str) -> None:
    folder, whole = result[0], charts(written(result)[0])
    names = {"loss.txt": ("loss_cpred", "loss_apred", "loss_diff"), "valid.txt": ("dice", "jac")}
    for file, columns in names.items():
        with (folder.parent / "logs" / file).open("a") as log:
            numbers = ", ".join(f"{column}={value}" for column in columns)
            log.write(f"{'step=' if file == 'loss.txt' else 'model-'}1000, {numbers}\n")
    found = charts(written(result)[0])
    assert list(found) == list(whole)
    for curve in ("current", "auxiliary", "residual"):
        assert f">{curve}<" in found["Training curves: supervised losses on the source"]
    for curve in ("dice", "Jaccard"):
        assert f">{curve}<" in found["Training curves: validation"]


def test_sections_and_objects_without_a_number_are_left_out(result) -> None:
    folder = result[0]
    whole = charts(written(result)[0])
    for name, column, rows in (("scores.csv", 3, (0, 4)), ("objects.csv", 3, (5, 6))):
        with (folder / name).open(newline="") as file:
            lines = list(csv.reader(file))
        for row in rows:
            lines[1 + row][column] = ""
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(lines)
    text, _ = written(result)
    assert list(charts(text)) == list(whole)
    assert "nan" not in re.sub(r'"data:[^"]*"', "", text)


def test_an_upper_bound_is_called_one(result) -> None:
    folder = result[0]
    summary = json.loads((folder / "summary.json").read_text())
    summary["chosen_by"] = "best-on-target-labels (an upper bound, not a result)"
    (folder / "summary.json").write_text(json.dumps(summary))
    assert "are an\nupper bound, not a result" in written(result)[0]


def test_what_is_missing_is_left_out(result) -> None:
    folder, raw, _ = result
    for name in ("scores.csv", "objects.csv"):
        (folder / name).unlink()
    shutil.rmtree(folder.parent / "logs")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"scores": None, "instance_scores": None, "labels": None}
    summary["volume"]["voxel_size_nm"] = None
    (folder / "summary.json").write_text(json.dumps(summary))
    raw.array[4] = 7  # a constant section
    text, _ = written(result, labels=False)
    assert "nothing could be scored" in text
    assert "No logs of the training run" in text
    assert "Mitochondria</h2>" not in text
    assert "labels\n(red)" not in text


def test_large_volumes_are_read_in_few_sections(tmp_path: Path, result) -> None:
    folder, _, _ = result
    raw = Stack(np.random.default_rng(0).integers(0, 255, (120, 32, 32), np.uint8))
    with h5py.File(folder / "preds.hdf", "w") as file:
        file["main"] = np.zeros(raw.shape, np.float32)
    write_report(folder, raw, None, tmp_path, 1)
    assert raw.reads <= 6 * 2 + 24


def test_a_browser_shows_it(result, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed to look at the report with")
    written(result)
    picture = tmp_path / "page.png"
    subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}",
         "--window-size=900,2600", (result[0] / "report.html").as_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    page = cv2.imread(str(picture))
    assert page.shape == (2600, 900, 3)
    assert (page != 255).any(axis=2).mean() > 0.1
