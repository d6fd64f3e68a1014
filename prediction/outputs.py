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


def volume(folder: Path, stem: str, kind: str) -> Path | None:
    """The masks, probabilities or instances in a folder; None if there are none.

    Args:
        folder: of the inferences.
        stem: which of them.
        kind: format to prefer where there are several, a key of ``WRITERS``.
    """
    writers = sorted(WRITERS, key=lambda name: name != kind)
    paths = [folder / f"{stem}{WRITERS[name].suffix}" for name in writers]
    return next((path for path in paths if path.is_file() or is_filled(path)), None)


def is_filled(folder: Path) -> bool:
    """Whether a folder holds anything."""
    return folder.is_dir() and any(folder.iterdir())


def remove_earlier(folder: Path, kept: Iterable[Path]) -> None:
    """Remove what earlier inferences left, which may be of another volume or format.

    Files that this project did not write stay, also in the folders of sections and pictures.

    Args:
        folder: of the inferences.
        kept: folders that stay: unfinished predictions.
    """
    remove_unfinished(folder, kept)
    stems = (MASKS, PROBABILITY, INSTANCES)
    names = {f"{stem}{writer.suffix}" for writer in WRITERS.values() for stem in stems}
    for path in list(folder.iterdir()):
        if path.name in (*stems, PICTURES):
            _remove_sections(path)
        elif path.name in names.union(FILES):
            discard(path)


def remove_unfinished(folder: Path, kept: Iterable[Path] = ()) -> None:
    """Remove what earlier inferences left unfinished, but for the predictions that are ``kept``."""
    stems = (MASKS, PROBABILITY, INSTANCES)
    parts = [writer.part_of(folder, stem) for writer in WRITERS.values() for stem in stems]
    singles = [single_predictions(folder, axis) for axis in ("xy", "xz", "yz")]
    parts += map(part_of, (folder / REPORT, folder / PREDICTIONS, *singles))
    for path in {*parts, *folder.glob(f"{SCRATCH}*")}.difference(kept):
        discard(path)


def remove_made_of_masks(folder: Path) -> None:
    """Remove objects, pictures and report, which were made of masks of another threshold."""
    for path in (folder / INSTANCES, folder / PICTURES):
        _remove_sections(path)
    instances = [folder / f"{INSTANCES}{writer.suffix}" for writer in WRITERS.values()]
    for path in (*instances, folder / OBJECTS, folder / REPORT):
        if path.suffix:
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
