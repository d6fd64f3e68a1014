"""Published data: the tree from small files of the official layouts, made once and resumed."""

import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from dataloader.formats.opening import open_volume
from dataloader.published.catalogue import DATA_SETS
from tests.dataloader.published_files import (
    IMAGES,
    LABELS,
    MITO_IMAGES,
    MITO_LABELS,
    SHAPE,
    TESTING,
    TRAINING,
    VNC,
    Tree,
    lucchi_files,
    mitoem_files,
    png,
    small,
    vnc_files,
    write,
    zipped,
)
from utils.errors import UserError
from utils.paths import ROOT
from utils.runtime.lock import lock_folder
from utils.runtime.signals import Interrupted

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
    assert "exists already" in tree.said[-1]


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
from tests.dataloader.published_files import small
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
    with pytest.raises(Interrupted, match="builds the unfinished volume from the start") as end:
        tree.prepare(VNC, write(tree.given, vnc_files()))
    assert end.value.code == 130
    assert tree.files() == []


def test_two_at_once(tree: Tree) -> None:
    (tree.root / "VNC3").mkdir(parents=True)
    lock = lock_folder(tree.root / "VNC3")
    tree.fails("VNC3: in use by another run", VNC, write(tree.given, vnc_files()))
    lock.release()
    tree.prepare(VNC, tree.given)
