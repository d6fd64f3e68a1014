"""Small files of the official layouts, and a data tree to make from them."""

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataloader.formats.opening import open_volume
from dataloader.published.catalogue import DATA_SETS, PublishedData, SectionFiles
from dataloader.published.preparation import Preparation
from utils.errors import UserError
from utils.runtime.lock import LOCK

SHAPE = (20, 40, 48)
TRAINING, TESTING, UNLABELLED = 18, 3, 4  # sections of the small MitoEM
VNC_ZIP = "groundtruth-drosophila-vnc-master.zip"
Files = dict[str, bytes]


def tissue(seed: int, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 and instance numbers uint16 of two dark discs that drift to the right."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]]
    labels = np.zeros(shape, np.uint16)
    for number, rows in enumerate(((8, 14), (25, 32)), 1):
        cy, cx = rng.uniform(*rows), rng.uniform(6, 18)
        for z, section in enumerate(labels):
            section[(y - cy) ** 2 + (x - cx - 1.2 * z) ** 2 < 30] = number
    images = np.where(labels, 80, 160) + rng.normal(0, 20, shape)
    return images.clip(0, 255).astype(np.uint8), labels


def encoded(image: np.ndarray, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def png(image: np.ndarray) -> bytes:
    return encoded(image, "PNG")


def tif(image: np.ndarray, **options) -> bytes:
    return encoded(image, "TIFF", **options)


def stack(volume: np.ndarray) -> bytes:
    pages = [Image.fromarray(section) for section in volume]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    return stream.getvalue()


def mask(labels: np.ndarray) -> np.ndarray:
    return np.where(labels, 255, 0).astype(np.uint8)


def zipped(files: Files, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def write(folder: Path, files: Files) -> Path:
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def small(name: str, **changes) -> PublishedData:
    """A data set of the table with small volumes and no known digests.

    Args:
        name: in the table.
        changes: of its official files: ``url``, say, a function of the file's name.
    """
    data = DATA_SETS[name]

    def files(wanted: SectionFiles, total: int, first: int) -> SectionFiles:
        file = wanted.file._replace(sha256=None, size=None)
        made = {key: value(file) for key, value in changes.items()}
        return wanted._replace(file=file._replace(**made), total=total, first=first)

    volumes, first = [], 0
    for volume in data.volumes:
        total = SHAPE[0]
        if name.startswith("mitoem"):
            sections = TRAINING if volume is data.volumes[0] else TESTING
            total, end = TRAINING + TESTING + UNLABELLED, first + sections
        else:
            sections, end = SHAPE[0], total
        volumes.append(
            volume._replace(
                shape=(sections, *SHAPE[1:]),
                image_files=files(volume.image_files, total, first),
                mask_files=files(volume.mask_files, end, first),
            )
        )
        first += sections if name.startswith("mitoem") else 0
    return data._replace(volumes=tuple(volumes))


VNC = small("vnc")
IMAGES, LABELS = tissue(0, SHAPE)


def vnc_files() -> Files:
    """The official archive's content, as GitHub packs it."""
    files = {"top/README.md": b"text", "top/stack2/raw/00.tif": tif(IMAGES[3])}
    for index in reversed(range(SHAPE[0])):
        files[f"top/stack1/raw/{index:02d}.tif"] = tif(IMAGES[index])
        files[f"top/stack1/mitochondria/{index:02d}.png"] = png(mask(LABELS[index]))
        files[f"top/stack1/membranes/{index:02d}.png"] = png(IMAGES[0])
    return files


def lucchi_files() -> tuple[Files, dict[str, tuple[np.ndarray, np.ndarray]]]:
    volumes = {part: tissue(seed, SHAPE) for seed, part in enumerate(("training", "testing"), 1)}
    files = {}
    for part, (images, labels) in volumes.items():
        files |= {f"{part}.tif": stack(images), f"{part}_groundtruth.tif": stack(mask(labels))}
    return files, volumes


MITO_IMAGES, MITO_LABELS = tissue(3, (TRAINING + TESTING + UNLABELLED, *SHAPE[1:]))


def mitoem_files(labelled: np.ndarray | None = None) -> Files:
    """Content of the two archives, by archive."""
    images = {f"im/im{z:04d}.png": png(image) for z, image in enumerate(MITO_IMAGES)}
    images["__MACOSX/im/._im0000.png"] = b"shadow"
    labels = {}
    labelled = MITO_LABELS if labelled is None else labelled
    for z, section in enumerate(labelled[: TRAINING + TESTING]):
        part = "train" if z < TRAINING else "val"
        labels[f"mito-{part}-v2/seg{z:04d}.tif"] = tif(section, compression="tiff_lzw")
    return {
        "EM30-R-im.zip": zipped(images, zipfile.ZIP_STORED),
        "EM30-R-mito-train-val-v2.zip": zipped(labels),
    }


class Tree:
    """A data root, and a folder with what is given."""

    def __init__(self, folder: Path) -> None:
        self.root, self.given = folder / "data", folder / "given"
        self.given.mkdir()
        self.said: list[str] = []

    def prepare(self, data: PublishedData, *given: Path, **options) -> None:
        Preparation(data, self.root, given, say=self.said.append, **options).run()

    def fails(self, match: str, data: PublishedData, *given: Path, **options) -> None:
        """Preparing ends in one line and leaves no volume in the tree."""
        with pytest.raises(UserError, match=match) as error:
            self.prepare(data, *given, **options)
        assert "\n" not in str(error.value)
        assert not [file for file in self.files() if "downloads" not in file.parts]

    def files(self) -> list[Path]:
        return sorted(f for f in self.root.rglob("*") if f.is_file() and f.name != LOCK)

    def archive(self, content: bytes, name: str = VNC_ZIP) -> Path:
        file = self.given / name
        file.write_bytes(content)
        return file

    def holds(self, place: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Demand these volumes, as training reads them."""
        suffix = Path(place).suffix
        groundtruth = f"{place.removesuffix(suffix)}_groundtruth{suffix}"
        for path, expected in ((place, images), (groundtruth, mask(labels))):
            volume = open_volume(self.root / path)
            assert volume.shape == expected.shape
            sections = np.stack([volume.section(index) for index in range(len(volume))])
            assert sections.dtype == np.uint8
            np.testing.assert_array_equal(sections, expected)

    def no_leftovers(self) -> None:
        assert {file.suffix for file in self.files()} <= {".png", ".hdf", ".zip", ".txt"}
        assert not [file for file in self.files() if "part" in str(file.relative_to(self.root))]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


RAW, MASK = "top/stack1/raw/{:02d}.tif", "top/stack1/mitochondria/{:02d}.png"
