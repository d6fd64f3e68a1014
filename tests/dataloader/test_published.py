"""The data tree from small files of the official layouts, whole and broken in every way."""

import hashlib
import io
import re
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dataloader.formats.opening import open_volume
from dataloader.published.catalogue import DATA_SETS, OfficialFile, PublishedData, SectionFiles
from dataloader.published.preparation import Preparation
from utils.errors import UserError
from utils.paths import ROOT
from utils.runtime.lock import LOCK, lock_folder
from utils.runtime.signals import Interrupted

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
        file = wanted.file._replace(sha256=None, bytes=None)
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


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path)


# whole files


@pytest.mark.parametrize("form", ["zip", "folder", "stack1", "two folders"])
def test_vnc_from_whatever_it_comes_in(tree: Tree, form: str) -> None:
    files = vnc_files()
    if form == "zip":
        given = [tree.archive(zipped(files))]
    else:
        top = write(tree.given, files) / "top"
        stack1 = top / "stack1"
        given = {
            "folder": [tree.given],
            "stack1": [stack1],
            "two folders": [stack1 / "mitochondria", stack1 / "raw"],
        }[form]
    tree.prepare(VNC, *given)
    tree.holds("VNC3/training", IMAGES, LABELS)
    assert (tree.root / "VNC3/training/00.png").is_file()
    tree.no_leftovers()


@pytest.mark.parametrize("kind", ["grey edges", "1-bit", "0 and 1", "16-bit"])
def test_masks_become_0_and_255(tree: Tree, kind: str) -> None:
    files = vnc_files()
    for index, labels in enumerate(LABELS):
        section = {
            "grey edges": np.where(labels, 128, 127).astype(np.uint8),
            "1-bit": labels > 0,
            "0 and 1": (labels > 0).astype(np.uint8),
            "16-bit": labels,
        }[kind]
        files[f"top/stack1/mitochondria/{index:02d}.png"] = png(section)
    tree.prepare(VNC, write(tree.given, files))
    tree.holds("VNC3/training", IMAGES, LABELS)


@pytest.mark.parametrize("packed", [False, True])
def test_lucchi_stacks(tree: Tree, packed: bool) -> None:
    files, volumes = lucchi_files()
    given = tree.archive(zipped(files), "mine.zip") if packed else write(tree.given, files)
    tree.prepare(small("lucchi"), given)
    for part, (images, labels) in volumes.items():
        tree.holds(f"Lucchi/{part}", images, labels)
    tree.no_leftovers()


def test_mitoem_zips(tree: Tree) -> None:
    tree.prepare(small("mitoem-r"), write(tree.given, mitoem_files()))
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])
    end = TRAINING + TESTING
    tree.holds("Mito/rat/testing.hdf", MITO_IMAGES[TRAINING:end], MITO_LABELS[TRAINING:end])
    with h5py.File(tree.root / "Mito/rat/training.hdf") as file:
        assert list(file) == ["main"]
    tree.no_leftovers()


def test_lists_of_all_sections_are_written_as_the_published_configs_name_them(tree: Tree) -> None:
    tree.prepare(VNC, write(tree.given / "vnc", vnc_files()))
    tree.prepare(small("lucchi"), write(tree.given / "lucchi", lucchi_files()[0]))
    lists = {
        "VNC3/train.txt": "VNC3/training",
        "Lucchi/train.txt": "Lucchi/training",
        "Lucchi/testing.txt": "Lucchi/testing",
    }
    for name, folder in lists.items():
        names = (tree.root / name).read_text().splitlines()
        assert names == sorted(file.name for file in (tree.root / folder).iterdir())
        assert open_volume(tree.root / folder, tree.root / name).names == names
    (tree.root / "VNC3/train.txt").write_text("00.png\n")
    (tree.root / "Lucchi/train.txt").unlink()
    for name in ("vnc", "lucchi"):
        tree.prepare(small(name))
    assert (tree.root / "VNC3/train.txt").read_text() == "00.png\n"  # mine, and left so
    assert len((tree.root / "Lucchi/train.txt").read_text().splitlines()) == SHAPE[0]


@pytest.mark.parametrize("kind", ["few in 8 bits", "-1 for empty"])
def test_instance_numbers_above_0_are_foreground(tree: Tree, kind: str) -> None:
    labels = {
        "few in 8 bits": MITO_LABELS.astype(np.uint8) * 60,
        "-1 for empty": np.where(MITO_LABELS, MITO_LABELS.astype(np.int32), -1),
    }[kind]
    files = mitoem_files(labels)
    tree.prepare(small("mitoem-r"), write(tree.given, files))
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])


def test_official_shapes_and_counts() -> None:
    shapes = {
        str(volume.images): volume.shape for data in DATA_SETS.values() for volume in data.volumes
    }
    assert shapes == {
        "VNC3/training": (20, 1024, 1024),
        "Lucchi/training": (165, 768, 1024),
        "Lucchi/testing": (165, 768, 1024),
        "Mito/rat/training.hdf": (400, 4096, 4096),
        "Mito/rat/testing.hdf": (100, 4096, 4096),
        "Mito/human/training.hdf": (400, 4096, 4096),
        "Mito/human/testing.hdf": (100, 4096, 4096),
    }
    for name in ("mitoem-r", "mitoem-h"):
        training, testing = DATA_SETS[name].volumes
        assert (training.image_files.first, training.mask_files.first) == (0, 0)
        assert (testing.image_files.first, testing.mask_files.first) == (400, 400)


# what is done is not done again


def test_second_run_does_nothing_and_wants_no_files(tree: Tree) -> None:
    tree.prepare(VNC, write(tree.given, vnc_files()))
    before = {file: file.stat().st_mtime_ns for file in tree.files()}
    tree.prepare(VNC)
    assert {file: file.stat().st_mtime_ns for file in tree.files()} == before
    assert "there already" in tree.said[-1]


def test_only_what_lacks_is_made(tree: Tree) -> None:
    given = write(tree.given, mitoem_files())
    tree.prepare(small("mitoem-r"), given)
    lost = tree.root / "Mito/rat/testing_groundtruth.hdf"
    kept = {file: file.stat().st_mtime_ns for file in tree.files() if file.suffix == ".hdf"}
    lost.unlink()
    del kept[lost]
    tree.prepare(small("mitoem-r"), given)
    end = TRAINING + TESTING
    tree.holds("Mito/rat/testing.hdf", MITO_IMAGES[TRAINING:end], MITO_LABELS[TRAINING:end])
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    tree.no_leftovers()


def test_what_is_there_with_another_shape_is_left_and_named(tree: Tree) -> None:
    write(tree.root, {"VNC3/training/00.png": png(IMAGES[0])})
    with pytest.raises(UserError, match=r"VNC3/training: found 1 sections of 40 x 48, expected 20"):
        tree.prepare(VNC, write(tree.given, vnc_files()))
    assert [file.name for file in tree.files()] == ["00.png"]


def test_empty_folder_is_no_volume(tree: Tree) -> None:
    (tree.root / "VNC3/training").mkdir(parents=True)
    tree.prepare(VNC, write(tree.given, vnc_files()))
    tree.holds("VNC3/training", IMAGES, LABELS)


KILLED = """
import os, signal, sys
from pathlib import Path
from PIL import Image
from tests.test_prepare_data import small
from dataloader.published.preparation import Preparation

name, root, given, moment = sys.argv[1:]
open_image, replace, opened = Image.open, Path.replace, []

def dying_open(file, *arguments, **options):
    opened.append(file)
    if moment == "reading" and len(opened) == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return open_image(file, *arguments, **options)

def dying_replace(self, target):
    if moment == Path(target).name:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Image.open, Path.replace = dying_open, dying_replace
Preparation(small(name), Path(root), [Path(given)]).run()
"""


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("vnc", "reading"),
        ("vnc", "training"),  # when this is moved to its place
        ("vnc", "training_groundtruth"),
        ("mitoem-r", "reading"),
        ("mitoem-r", "training.hdf"),
        ("mitoem-r", "testing_groundtruth.hdf"),
    ],
)
def test_killed_and_given_again(tree: Tree, name: str, moment: str) -> None:
    write(tree.given, vnc_files() if name == "vnc" else mitoem_files())
    arguments = [name, str(tree.root), str(tree.given), moment]
    process = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT)
    assert process.returncode == -signal.SIGKILL
    tree.prepare(small(name), tree.given)
    if name == "vnc":
        tree.holds("VNC3/training", IMAGES, LABELS)
    else:
        tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])
    tree.no_leftovers()


def test_interrupted_says_what_the_next_start_does(tree: Tree, monkeypatch) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupted)
    with pytest.raises(Interrupted, match="begins the unfinished volume again") as end:
        tree.prepare(VNC, write(tree.given, vnc_files()))
    assert end.value.code == 130
    assert tree.files() == []


def test_two_at_once(tree: Tree) -> None:
    (tree.root / "VNC3").mkdir(parents=True)
    lock = lock_folder(tree.root / "VNC3")
    tree.fails("VNC3: in use by another run", VNC, write(tree.given, vnc_files()))
    lock.release()
    tree.prepare(VNC, tree.given)


# what is wrong with the content


def with_wrong_checksum(content: bytes) -> bytes:
    """A PNG of which a byte of the pixels' checksum is changed."""
    return content[:-14] + bytes([content[-14] ^ 0xFF]) + content[-13:]


def with_palette() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[7]).convert("P").save(stream, "PNG")
    return stream.getvalue()


RAW, MASK = "top/stack1/raw/{:02d}.tif", "top/stack1/mitochondria/{:02d}.png"
COLOUR = np.repeat(IMAGES[7][..., None], 3, axis=2)
BROKEN_SECTIONS = {
    "colour": (RAW, tif(COLOUR), r"raw/07\.tif: found 3 channels, expected one"),
    "palette": (MASK, with_palette(), "found 3 channels"),
    "alpha": (RAW, tif(np.dstack([IMAGES[7]] * 2)), r"07\.tif: found 2 channels"),
    "16-bit": (RAW, tif(IMAGES[7].astype(np.uint16)), r"found 16-bit grey, expected 8-bit"),
    "float": (MASK, tif(IMAGES[7].astype(np.float32)), "found floating-point grey"),
    "smaller": (RAW, tif(IMAGES[7][:, :30]), r"found 40 x 30 pixels, expected 40 x 48"),
    "transposed": (MASK, png(mask(LABELS[7].T)), r"found 48 x 40 pixels, expected 40 x 48"),
    "truncated TIFF": (RAW, tif(IMAGES[7])[:-900], r"raw/07\.tif: not a readable image"),
    "truncated PNG": (MASK, png(mask(LABELS[7]))[:-40], r"07\.png: not a readable image"),
    "damaged PNG": (
        MASK,
        with_wrong_checksum(png(mask(LABELS[7]))),
        r"07\.png: not a readable image",
    ),
    "text": (RAW, b"<html>", r"not a readable image \(neither PNG nor TIFF\)"),
    "empty": (RAW, b"", r"raw/07\.tif: not a readable image"),
    "instances": (MASK, png(LABELS[7].astype(np.uint8) * 20), "found mask values up to 40"),
    "shifted": (MASK, png(mask(np.roll(LABELS[7], 20, 1))), r"overlaps .* by 0\.\d\d \(Dice\)"),
    "of another section": (MASK, png(mask(LABELS[19])), r"07\.png: overlaps"),
    "blank": (MASK, png(mask(LABELS[7] * 0)), r"by 0\.00 \(Dice\), expected 0\.5"),
}


@pytest.mark.parametrize("case", BROKEN_SECTIONS)
def test_broken_section_is_named(tree: Tree, case: str) -> None:
    name, content, match = BROKEN_SECTIONS[case]
    tree.fails(match, VNC, write(tree.given, vnc_files() | {name.format(7): content}))


def renumbered(files: Files, change: Callable[[int], int | None]) -> Files:
    """Masks numbered otherwise; None: left out."""
    masks = {z: files.pop(MASK.format(z)) for z in range(SHAPE[0])}
    moved = {change(z): content for z, content in masks.items()}
    moved.pop(None, None)
    return files | {MASK.format(z): content for z, content in moved.items()}


WRONG_SETS = {
    "missing": (
        lambda z: z if z != 7 else None,
        "one of 19 .* section 7 is missing",
    ),
    "numbered from 1": (lambda z: z + 1, "section 0 is missing"),
    "turned round": (lambda z: SHAPE[0] - 1 - z, "hardly darker"),
}


@pytest.mark.parametrize("case", WRONG_SETS)
def test_wrong_numbering(tree: Tree, case: str) -> None:
    change, match = WRONG_SETS[case]
    tree.fails(match, VNC, write(tree.given, renumbered(vnc_files(), change)))


def test_section_too_many(tree: Tree) -> None:
    files = vnc_files() | {RAW.format(20): tif(IMAGES[0])}
    tree.fails(r"up to number 20, expected 20 \(0 to 19\)", VNC, write(tree.given, files))


def test_section_twice(tree: Tree) -> None:
    files = vnc_files() | {"stack1/raw/7.tif": tif(IMAGES[7])}
    tree.fails(r"07\.tif: the same as .*7\.tif", VNC, tree.archive(zipped(files)))


def test_masks_of_the_section_after(tree: Tree) -> None:
    """All labels of one section on: each overlaps the next, and lies in tissue, nearly."""
    images, labels = tissue(11, (SHAPE[0] + 1, *SHAPE[1:]))
    files = {f"stack1/raw/{z:02d}.tif": tif(images[z]) for z in range(SHAPE[0])}
    files |= {f"stack1/mitochondria/{z:02d}.png": png(mask(labels[z + 1])) for z in range(SHAPE[0])}
    tree.fails("fit the masks of the sections before them better", VNC, write(tree.given, files))


def test_masks_of_another_stack(tree: Tree) -> None:
    """The trap of training and testing labels swapped."""
    files, _ = lucchi_files()
    names = [f"{part}_groundtruth.tif" for part in ("training", "testing")]
    files |= dict(zip(names, [files[name] for name in reversed(names)], strict=True))
    tree.fails("hardly darker than their surroundings", small("lucchi"), write(tree.given, files))


def test_no_mitochondria_at_all(tree: Tree) -> None:
    files = vnc_files() | {MASK.format(z): png(LABELS[z] * np.uint16(0)) for z in range(SHAPE[0])}
    tree.fails("found no mitochondria", VNC, write(tree.given, files))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: stack(np.zeros((19, 40, 48), np.uint8)), r"found 19 pages, expected 20"),
        (lambda content: content[: len(content) // 2], r"training\.tif.*not a readable image"),
        (lambda content: png(IMAGES[0]), r"found 1 pages, expected 20"),
        (lambda content: stack(IMAGES[:, :20]), r"page 0: found 20 x 48 pixels"),
        (lambda content: b"", r"training\.tif, page 0: not a readable image"),
    ],
)
def test_broken_stack(tree: Tree, change: Callable, match: str) -> None:
    files, _ = lucchi_files()
    files["training.tif"] = change(files["training.tif"])
    tree.fails(match, small("lucchi"), write(tree.given, files))


def test_failure_in_the_second_volume_leaves_the_first(tree: Tree) -> None:
    files, volumes = lucchi_files()
    files["testing.tif"] = files["testing.tif"][:-3000]
    with pytest.raises(UserError, match=r"testing\.tif"):
        tree.prepare(small("lucchi"), write(tree.given, files))
    tree.holds("Lucchi/training", *volumes["training"])
    assert sorted(p.name for p in (tree.root / "Lucchi").iterdir()) == [
        LOCK,
        "train.txt",
        "training",
        "training_groundtruth",
    ]


# archives


def damaged_member() -> bytes:
    """A stored zip in which one byte of a section's pixels is changed."""
    content = zipped(vnc_files(), zipfile.ZIP_STORED)
    place = content.index(IMAGES[7].tobytes())
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def tarred() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("stack1/raw/00.tif"))
    return stream.getvalue()


NO_ZIP = r"not a readable zip archive .* give the folder with --from"
ARCHIVES = {
    "truncated": (lambda: zipped(vnc_files())[:-100], NO_ZIP),
    "damaged": (damaged_member, r"07\.tif: not a readable image \(Bad CRC-32"),
    "tar": (tarred, NO_ZIP),
    "web page": (lambda: b"<html>not found</html>", NO_ZIP),
    "empty": (lambda: b"", NO_ZIP),
    "something else": (lambda: zipped({"a.txt": b"text"}), r"holds nothing of VNC III; expected g"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_broken_and_wrong_archives(tree: Tree, case: str) -> None:
    make, match = ARCHIVES[case]
    tree.fails(match, VNC, tree.archive(make(), f"{case}.zip"))


@pytest.mark.parametrize("packed", [True, False])
def test_lucchi_pp_is_another_data_set(tree: Tree, packed: bool) -> None:
    files = {"Lucchi++/Train_In/mask0000.png": png(IMAGES[0])}
    given = tree.archive(zipped(files), "lucchi_pp.zip") if packed else write(tree.given, files)
    tree.fails(r"Lucchi\+\+ \(lucchi_pp\.zip\) is another data set", small("lucchi"), given)


# which files they are


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_known_digest_is_checked(tree: Tree) -> None:
    content = zipped(vnc_files())
    known = small("vnc", sha256=lambda file: digest(content))
    tree.fails(
        r"SHA-256 \w{12}\.\.\., expected \w{12}\.\.\.;",
        known,
        tree.archive(zipped(vnc_files(), zipfile.ZIP_STORED)),
    )
    tree.prepare(known, tree.archive(content))
    assert f"{VNC_ZIP}: SHA-256 {digest(content)}, as published" in tree.said


def test_unpacked_folder_needs_no_digest(tree: Tree) -> None:
    tree.prepare(small("vnc", sha256=lambda file: "0" * 64), write(tree.given, vnc_files()))
    tree.holds("VNC3/training", IMAGES, LABELS)


def test_without_a_published_digest_the_size_is_compared(tree: Tree, capsys) -> None:
    content = zipped(vnc_files())
    tree.prepare(small("vnc", bytes=lambda file: 12), tree.archive(content))
    assert f"{VNC_ZIP}: SHA-256 {digest(content)}, none published" in tree.said
    warning = f"warning: {VNC_ZIP} has {len(content):,} bytes, the official file 12\n"
    assert capsys.readouterr().err == warning


# downloads


class FileServer:
    """A web server of ``files`` on this machine.

    Attributes:
        files: content by name.
        cut: bytes after which the next answer breaks off; None: it does not.
        asked: the names it was asked for.
    """

    def __init__(self) -> None:
        self.files: Files = {}
        self.cut: int | None = None
        self.asked: list[str] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path[1:]
                owner.asked.append(name)
                if name not in owner.files:
                    self.send_error(404)
                    return
                content = owner.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: owner.cut])
                owner.cut = None

            def log_message(self, *arguments) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, file: OfficialFile) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{file.name}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FileServer()
    yield server
    server.close()


def test_only_what_is_missing_is_downloaded(tree: Tree, server: FileServer) -> None:
    files = mitoem_files()
    server.files["EM30-R-im.zip"] = files.pop("EM30-R-im.zip")
    data = small("mitoem-r", url=server.url, large=lambda file: False)
    tree.prepare(data, write(tree.given, files), download=True)
    assert server.asked == ["EM30-R-im.zip"]
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])
    assert [file.name for file in (tree.root / "downloads").iterdir()] == server.asked
    (tree.root / "Mito/rat/testing.hdf").unlink()
    tree.prepare(data, tree.given)  # what was downloaded is found again
    assert len(server.asked) == 1
    tree.no_leftovers()


def test_download_that_breaks_off_and_is_given_again(tree: Tree, server: FileServer) -> None:
    content = zipped(vnc_files())
    server.files[VNC_ZIP], server.cut = content, 5000
    data = small("vnc", url=server.url, sha256=lambda file: digest(content))
    tree.fails(f"{VNC_ZIP}: not downloaded .*try again", data, download=True)
    assert tree.files() == []
    tree.prepare(data, download=True)
    tree.holds("VNC3/training", IMAGES, LABELS)
    tree.no_leftovers()


def test_another_file_on_the_server(tree: Tree, server: FileServer) -> None:
    server.files[VNC_ZIP] = zipped(vnc_files())
    data = small("vnc", url=server.url, sha256=lambda file: "0" * 64)
    tree.fails("not downloaded .*does not match the known hash.*--from", data, download=True)
    assert tree.files() == []


def test_missing_on_the_server(tree: Tree, server: FileServer) -> None:
    tree.fails("404 Client Error: Not Found.*--from", small("vnc", url=server.url), download=True)


def test_large_file_is_left_to_curl(tree: Tree, server: FileServer) -> None:
    files = mitoem_files()
    server.files = dict(files)
    data = small("mitoem-r", url=server.url)
    place = tree.root / "downloads/EM30-R-im.zip"
    with pytest.raises(UserError, match="too large") as error:
        tree.prepare(data, download=True)
    address = server.url(data.volumes[0].image_files.file)
    assert str(error.value).endswith(f": curl -L -C - -o {place} {address}")
    assert server.asked == ["EM30-R-mito-train-val-v2.zip"]
    place.write_bytes(files["EM30-R-im.zip"])  # as curl would
    tree.prepare(data, download=True)
    tree.holds("Mito/rat/training.hdf", MITO_IMAGES[:TRAINING], MITO_LABELS[:TRAINING])


def test_missing_file_is_named_with_its_place(tree: Tree) -> None:
    files = mitoem_files()
    del files["EM30-R-im.zip"]
    tree.fails(
        r"MitoEM-R: missing EM30-R-im\.zip \(https://\S+EM30-R-im\.zip\); give --from",
        small("mitoem-r"),
        write(tree.given, files),
    )
    assert not tree.root.exists()


def test_no_room_on_the_disc(tree: Tree, monkeypatch) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    tree.fails("0.0 GB free, up to 0.0 GB needed", VNC, write(tree.given, vnc_files()))


def test_root_that_is_a_file(tree: Tree) -> None:
    tree.root.write_text("")
    tree.fails("data/VNC3: cannot be written", VNC, write(tree.given, vnc_files()))


# the command


def test_command(command, tree: Tree) -> None:
    """At the official size, from an unpacked folder."""
    shape = DATA_SETS["vnc"].volumes[0].shape
    labels = np.zeros(shape[1:], np.uint8)
    labels[200:500, 100:900] = 255
    image = 200 - labels // 2 + np.random.default_rng(0).integers(0, 30, shape[1:], np.uint8)
    raw, groundtruth = tif(image), png(labels)
    for index in range(shape[0]):
        write(
            tree.given,
            {
                f"stack1/raw/{index:02d}.tif": raw,
                f"stack1/mitochondria/{index:02d}.png": groundtruth,
            },
        )
    finished = command("prepare_data", "vnc", "--from", tree.given, "--data", tree.root)
    assert (finished.code, finished.err) == (0, "")
    assert "20 sections of 1024 x 1024" in finished.out
    assert finished.out.endswith("Done\n")
    volume = open_volume(tree.root / "VNC3/training_groundtruth")
    assert volume.shape == shape
    np.testing.assert_array_equal(volume.section(19), labels)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ([], "required: data_set"),
        (["mouse"], "invalid choice: 'mouse'"),
        (["vnc"], "error: VNC III: nothing to make it from; give these with --from"),
        (["vnc", "--from"], "expected at least one argument"),
        (["vnc", "--from", "nowhere.zip"], "error: --from nowhere.zip: no such file or folder"),
        (["lucchi", "--from", "{empty}"], r"missing training\.tif \(http"),
    ],
)
def test_usage_errors(command, tree: Tree, tmp_path: Path, arguments: list, match: str) -> None:
    (tmp_path / "empty").mkdir()
    arguments = [a.format(empty=tmp_path / "empty") for a in arguments]
    finished = command("prepare_data", "--data", tree.root, *arguments)
    assert finished.code == 2
    assert re.search(match, finished.err)
    assert not tree.root.exists()
    assert "Traceback" not in finished.err


def test_command_says_what_it_needs(command, tree: Tree) -> None:
    finished = command("prepare_data", "mitoem-h", "--data", tree.root)
    for file in DATA_SETS["mitoem-h"].files:
        assert file.name in finished.out
        assert file.url in finished.out
