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
SCRATCH = ".instances-"  # and a number: a folder of files while objects are being found
SECTION_FILES = (".png", ".tif")  # of masks, numbers and pictures


def single_predictions(folder: Path, axis: str) -> Path:
    """Where the predictions of single sections along an axis are until they are averaged."""
    return folder / f"preds_{axis}.hdf"


def remove_earlier(folder: Path, kept: Iterable[Path]) -> None:
    """Remove what earlier inferences left, which may be of another volume or format.

    Files that this project did not write stay, also in the folders of sections and pictures.

    Args:
        folder: of the inferences.
        kept: files and folders that stay: finished or unfinished predictions.
    """
    kept = {path.name for path in kept}
    stems, formats = (MASKS, PROBABILITY, INSTANCES), set(WRITERS.values())
    names = {*FILES, part_of(folder / REPORT).name}
    names |= {writer.part_of(folder, stem).name for writer in formats for stem in stems}
    names |= {f"{stem}{writer.suffix}" for writer in formats for stem in stems}
    parts = [single_predictions(folder, axis) for axis in ("xy", "xz", "yz")]
    names |= {part_of(path).name for path in (folder / PREDICTIONS, *parts)}
    for path in list(folder.iterdir()):
        if path.name in kept:
            continue
        if path.name in (*stems, PICTURES):
            _remove_sections(path)
        elif path.name in names or path.name.startswith(SCRATCH):
            discard(path)


def _remove_sections(folder: Path) -> None:
    """Remove the sections in a folder, and the folder if it is empty then."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_file() and path.suffix in SECTION_FILES:
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()
