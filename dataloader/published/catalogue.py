"""The published data sets: their official files, and where the data tree wants what is in them."""

from pathlib import Path
from typing import NamedTuple

HUGGING_FACE = "https://huggingface.co/datasets/pytc"
GITHUB_VNC = "https://github.com/unidesigner/groundtruth-drosophila-vnc"
EPFL = "https://documents.epfl.ch/groups/c/cv/cvlab-unit/www/data/%20ElectronMicroscopy_Hippocampus"
EPFL_PAGE = "https://www.epfl.ch/labs/cvlab/data/data-em/"


class OfficialFile(NamedTuple):
    """A file as its publishers offer it.

    Attributes:
        name: as it is called there.
        page: where a person finds it.
        url: of the file itself.
        sha256: of its content; None: not known.
        bytes: its size; None: not known.
        large: so large that its download must be resumable.
    """

    name: str
    page: str
    url: str
    sha256: str | None = None
    bytes: int | None = None
    large: bool = False


# All that is known of the official files, the one place to correct it. Collected in 2026 from what
# public loaders use; no address could be tried when this was written.
VNC_ARCHIVE = OfficialFile(
    "groundtruth-drosophila-vnc-master.zip",
    page=GITHUB_VNC,
    url=f"{GITHUB_VNC}/archive/refs/heads/master.zip",
    sha256="f7bd0db03c86b64440a16b60360ad60c0a4411f89e2c021c7ee2c8d6af3d7e86",
)
EPFL_STACKS = {
    name: OfficialFile(
        f"{name}.tif", page=EPFL_PAGE, url=f"{EPFL}/{name}.tif", sha256=None, bytes=129_919_357
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
        # The address is that of older loaders. Hugging Face has the EM30-H-im-pad.zip, padded to
        # 1040 sections, which the labels do not fit.
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
        file: that holds them.
        pattern: regular expression of the end of their paths. Its group is the section's number;
            without a group it is one TIFF with a page for each section.
        total: how many sections there are, wanted or not, the first being number 0.
        kind: "image" (8-bit grey), "mask" (0/255 or 0/1, grey edges cut at half) or "instances"
            (numbers, 0 the background).
        first: number of the first section wanted.
    """

    file: OfficialFile
    pattern: str
    total: int
    kind: str
    first: int = 0


class PublishedVolume(NamedTuple):
    """Images and masks of one volume of the data tree.

    Attributes:
        images, masks: where they go, below the data root: a folder, or an HDF5 file by its suffix.
        shape: (sections, height, width).
        image_files, mask_files: where they come from.
        list_file: the list of all its sections that the published configs name, below the data
            root; None: they name none.
    """

    images: Path
    masks: Path
    shape: tuple[int, int, int]
    image_files: SectionFiles
    mask_files: SectionFiles
    list_file: Path | None = None

    @property
    def wanted(self) -> tuple[SectionFiles, SectionFiles]:
        """Where images and masks come from."""
        return self.image_files, self.mask_files


class PublishedData(NamedTuple):
    """A data set that the shipped configs read.

    Attributes:
        title: for messages.
        folder: below the data root, of all its volumes.
        volumes: in the order in which they are made.
        least_overlap: least Dice overlap of the masks of neighbouring sections.
        mistaken_for: what is not it, for those who give something else.
    """

    title: str
    folder: Path
    volumes: tuple[PublishedVolume, ...]
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
        least_overlap=0.5,  # 0.73 to 0.86 on the data
    ),
    "lucchi": PublishedData(
        "Lucchi (EPFL)",
        Path("Lucchi"),
        (_epfl("training", "train.txt"), _epfl("testing", "testing.txt")),
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
        least_overlap=0.4,  # not measured on the data, whose 30 nm lie between the two above
    )
    for letter, animal in (("R", "rat"), ("H", "human"))
}

# Named in the published configs; they came with the authors' download.
LISTS_OF_ALL_SECTIONS = tuple(
    volume.list_file
    for data in DATA_SETS.values()
    for volume in data.volumes
    if volume.list_file is not None
)
