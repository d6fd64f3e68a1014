"""Published data that are broken, incomplete or something else: named in one line."""

import io
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tests.dataloader.published_files import (
    IMAGES,
    LABELS,
    MASK,
    RAW,
    SHAPE,
    VNC,
    VNC_ZIP,
    Files,
    Tree,
    digest,
    lucchi_files,
    mask,
    mitoem_files,
    png,
    small,
    stack,
    tif,
    tissue,
    vnc_files,
    write,
    zipped,
)
from utils.errors import UserError
from utils.runtime.lock import LOCK


def with_wrong_checksum(content: bytes) -> bytes:
    """A PNG of which a byte of the pixels' checksum is changed."""
    return content[:-14] + bytes([content[-14] ^ 0xFF]) + content[-13:]


def with_palette() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(IMAGES[7]).convert("P").save(stream, "PNG")
    return stream.getvalue()


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
    "shifted": (MASK, png(mask(np.roll(LABELS[7], 20, 1))), r"with .* by 0\.\d\d \(Dice\)"),
    "of another section": (MASK, png(mask(LABELS[19])), r"07\.png: the mask overlaps"),
    "blank": (MASK, png(mask(LABELS[7] * 0)), r"by 0\.00 \(Dice\), expected at least 0\.5"),
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
        "found 19 .* section 7 is missing",
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
    tree.fails(r"07\.tif: the same section as .*7\.tif", VNC, tree.archive(zipped(files)))


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
    tree.fails("no mitochondria in the masks", VNC, write(tree.given, files))


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
    "something else": (lambda: zipped({"a.txt": b"text"}), r"no files of VNC III; expected g"),
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
    tree.prepare(small("vnc", size=lambda file: 12), tree.archive(content))
    assert f"{VNC_ZIP}: SHA-256 {digest(content)}, no published value to compare with" in tree.said
    warning = f"warning: {VNC_ZIP} has {len(content):,} bytes, the official file 12\n"
    assert capsys.readouterr().err == warning


def test_missing_file_is_named_with_its_place(tree: Tree) -> None:
    files = mitoem_files()
    del files["EM30-R-im.zip"]
    tree.fails(
        r"MitoEM-R: missing EM30-R-im\.zip \(https://\S+EM30-R-im\.zip\); give them with --from",
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
