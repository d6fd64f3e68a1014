"""The published data sets: their official files, and their place in the data tree."""

from pathlib import Path
from typing import NamedTuple

from dataloader.formats.voxel_size import VoxelSize

HUGGING_FACE = "https://huggingface.co/datasets/pytc"
GITHUB_VNC = "https://github.com/unidesigner/groundtruth-drosophila-vnc"
EPFL = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus"
EPFL_PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"


class OfficialFile(NamedTuple):
    """A file as its publishers provide it.

    Attributes:
        name: file name.
        page: web page that offers it.
        url: of the file itself.
        sha256: of its content; None if unknown.
        size: in bytes; None if unknown.
        large: whether its download must be resumable.
    """

    name: str
    page: str
    url: str
    sha256: str | None = None
    size: int | None = None
    large: bool = False


# Collected in 2026 from public data loaders; none of the addresses has been tried.
VNC_ARCHIVE = OfficialFile(
    "groundtruth-drosophila-vnc-master.zip",
    page=GITHUB_VNC,
    url=f"{GITHUB_VNC}/archive/refs/heads/master.zip",
    sha256="f7bd0db03c86b64440a16b60360ad60c0a4411f89e2c021c7ee2c8d6af3d7e86",
)
EPFL_STACKS = {
    name: OfficialFile(
        f"{name}.tif", page=EPFL_PAGE, url=f"{EPFL}/{name}.tif", sha256=None, size=129_919_357
    )
    for name in ("training", "training_groundtruth", "testing", "testing_groundtruth")
}
MITOEM_IMAGES = {
    "R": OfficialFile(
        "EM30-R-im.zip",
        page=f"{HUGGING_FACE}/EM30",
        url=f"{HUGGING_FACE}/EM30/resolve/main/EM30-R-im.zip",
        sha256="6a2cac68adde5d01984542d3ee1d7753d1fa3e6eb2a042ce15ce297c95885bbe",
        large=True,  # about 14 GB
    ),
    "H": OfficialFile(
        "EM30-H-im.zip",
        # From older loaders. The EM30-H-im-pad.zip on Hugging Face is padded to 1040 sections,
        # which the labels do not fit.
        page="https://mitoem.grand-challenge.org",
        url="https://www.dropbox.com/s/z41qtu4y735j95e/EM30-H-im.zip?dl=1",
        sha256="98fe259f36a7d8d43f99981b7a0ef8cdeba2ce2615ff91595f428ae57207a041",
        large=True,
    ),
}
MITOEM_LABELS = {
    "R": OfficialFile(
        "EM30-R-mito-train-val-v2.zip",  # 67 MB
        page=f"{HUGGING_FACE}/MitoEM",
        url=f"{HUGGING_FACE}/MitoEM/resolve/main/EM30-R-mito-train-val-v2.zip",
        sha256="c56380ac575428a818bd293ca3509d1249999846c3702ccbf11d308acdd2ae86",
    ),
    "H": OfficialFile(
        "EM30-H-mito-train-val-v2.zip",  # 56 MB
        page=f"{HUGGING_FACE}/MitoEM",
        url=f"{HUGGING_FACE}/MitoEM/resolve/main/EM30-H-mito-train-val-v2.zip",
        sha256="0e8ed292cfcd0c58701d9f4299244a1b66d6aeb506c85754c34f98a4eda0ef1b",
    ),
}


class SectionFiles(NamedTuple):
    """Consecutive sections in an official file.

    Attributes:
        file: the file.
        pattern: regular expression for the end of the sections' paths. Its group is the number of
            the section; without a group, one TIFF has a page for each section.
        total: number of all sections in the file, counted from 0.
        kind: "image" (8-bit grey), "mask" (0/255 or 0/1, grey edges thresholded at half) or
            "instances" (numbers, 0 is background).
        first: number of the first section to use.
    """

    file: OfficialFile
    pattern: str
    total: int
    kind: str
    first: int = 0


class PublishedVolume(NamedTuple):
    """Images and masks of one volume of the data tree.

    Attributes:
        images, masks: paths below the data root: a folder, or an HDF5 file by its suffix.
        shape: (sections, height, width).
        image_files, mask_files: the sections in the official files.
        list_file: path below the data root of the list of all sections that the published configs
            name; None: they name none.
    """

    images: Path
    masks: Path
    shape: tuple[int, int, int]
    image_files: SectionFiles
    mask_files: SectionFiles
    list_file: Path | None = None

    @property
    def wanted(self) -> tuple[SectionFiles, SectionFiles]:
        """``image_files`` and ``mask_files``."""
        return self.image_files, self.mask_files


class PublishedData(NamedTuple):
    """A data set that the shipped configs read.

    Attributes:
        title: for messages.
        folder: folder of all its volumes, below the data root.
        volumes: in the order in which they are built.
        voxel_size: of all its volumes.
        least_overlap: smallest plausible Dice overlap of the masks of neighbouring sections.
        mistaken_for: hint at another data set that is often mistaken for this one.
    """

    title: str
    folder: Path
    volumes: tuple[PublishedVolume, ...]
    voxel_size: VoxelSize
    least_overlap: float
    mistaken_for: str = ""

    @property
    def files(self) -> list[OfficialFile]:
        """Its official files."""
        return list(dict.fromkeys(wanted.file for v in self.volumes for wanted in v.wanted))


def _epfl(part: str, list_name: str) -> PublishedVolume:
    images, masks = part, f"{part}_groundtruth"
    return PublishedVolume(
        Path("Lucchi", images),
        Path("Lucchi", masks),
        (165, 768, 1024),
        SectionFiles(EPFL_STACKS[images], rf"{images}\.tiff?", 165, "image"),
        SectionFiles(EPFL_STACKS[masks], rf"{masks}\.tiff?", 165, "mask"),
        Path("Lucchi", list_name),
    )


def _mitoem(letter: str, animal: str, part: str, labels: str, wanted: range) -> PublishedVolume:
    first, end = wanted.start, wanted.stop
    images, masks = MITOEM_IMAGES[letter], MITOEM_LABELS[letter]
    return PublishedVolume(
        Path("Mito", animal, f"{part}.hdf"),
        Path("Mito", animal, f"{part}_groundtruth.hdf"),
        (len(wanted), 4096, 4096),
        SectionFiles(images, r"im/im(\d+)\.png", 1000, "image", first),
        SectionFiles(masks, rf"{labels}/seg(\d+)\.tiff?", end, "instances", first),
    )


DATA_SETS = {
    "vnc": PublishedData(
        "VNC III",
        Path("VNC3"),
        (
            PublishedVolume(
                Path("VNC3/training"),
                Path("VNC3/training_groundtruth"),
                (20, 1024, 1024),
                SectionFiles(VNC_ARCHIVE, r"stack1/raw/(\d+)\.tiff?", 20, "image"),
                SectionFiles(VNC_ARCHIVE, r"stack1/mitochondria/(\d+)\.png", 20, "mask"),
                Path("VNC3/train.txt"),
            ),
        ),
        VoxelSize(50.0, 4.6, 4.6),
        least_overlap=0.5,  # 0.73 to 0.86 on the data
    ),
    "lucchi": PublishedData(
        "Lucchi (EPFL)",
        Path("Lucchi"),
        (_epfl("training", "train.txt"), _epfl("testing", "testing.txt")),
        VoxelSize(5.0, 5.0, 5.0),
        least_overlap=0.7,  # 0.92 and more on the training stack
        mistaken_for="Lucchi++ (lucchi_pp.zip) is another data set, with other labels",
    ),
} | {
    f"mitoem-{letter.lower()}": PublishedData(
        f"MitoEM-{letter}",
        Path("Mito", animal),
        (
            _mitoem(letter, animal, "training", "mito-train-v2", range(400)),
            _mitoem(letter, animal, "testing", "mito-val-v2", range(400, 500)),
        ),
        VoxelSize(30.0, 8.0, 8.0),
        least_overlap=0.4,  # not measured; its 30 nm spacing is between the two above
    )
    for letter, animal in (("R", "rat"), ("H", "human"))
}

# Lists that the published configs name and the authors' download contained.
LISTS_OF_ALL_SECTIONS = tuple(
    volume.list_file
    for data in DATA_SETS.values()
    for volume in data.volumes
    if volume.list_file is not None
)
