"""The files that an inference leaves in its folder."""

from collections.abc import Iterable
from pathlib import Path

from dataloader.formats.registry import WRITERS
from utils.files import discard, part_of

PREDICTIONS = "preds.hdf"
MASKS, PROBABILITY, INSTANCES = "masks", "probability", "instances"
OBJECTS, SECTIONS, SUMMARY = "objects.csv", "scores.csv", "summary.json"
SCORES, REPORT, PICTURES = "scores.txt", "report.html", "seg_img"
FILES = (PREDICTIONS, OBJECTS, SECTIONS, SUMMARY, SCORES, REPORT)
SECTION_FILES = (".png", ".tif")  # of masks, numbers and pictures


def single_predictions(folder: Path, axis: str) -> Path:
    """Where the predictions of single sections along an axis are until they are averaged."""
    return folder / f"preds_{axis}.hdf"


def marks_of(predictions: Path) -> Path:
    """The folder of marks that say which sections of unfinished predictions are written."""
    return predictions.with_name(f".{predictions.name}.done")


def remove_earlier(folder: Path, unfinished: Iterable[Path]) -> None:
    """Remove what earlier inferences left: of another volume or format, it would stay beside.

    What we did not write stays, in the folders of sections and pictures as well.

    Args:
        folder: of the inferences.
        unfinished: predictions that may be gone on with.
    """
    stems, formats = (MASKS, PROBABILITY, INSTANCES), set(WRITERS.values())
    names = {*FILES, part_of(folder / REPORT).name}
    names |= {writer.part_of(folder, stem).name for writer in formats for stem in stems}
    names |= {f"{stem}{writer.suffix}" for writer in formats for stem in stems}
    parts = [single_predictions(folder, axis) for axis in ("xy", "xz", "yz")]
    for path in {folder / PREDICTIONS, *parts} - set(unfinished):
        names |= {part_of(path).name, marks_of(path).name}
    for path in list(folder.iterdir()):
        if path.name in (*stems, PICTURES):
            _remove_sections(path)
        elif path.name in names:
            discard(path)


def _remove_sections(folder: Path) -> None:
    """Remove the sections in a folder; the folder as well, if nothing else is in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_file() and path.suffix in SECTION_FILES:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
