"""The options of ``segment.py``."""

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dataloader.formats.opening import Place, find_volume
from dataloader.formats.stores import CONTAINERS, name_of
from dataloader.volume import Volume
from utils.cli import check_sizes
from utils.errors import UserError
from utils.paths import Workspace, absolute, address_of

SIZES = ("pixel_size", "section_spacing", "pixel_size_source", "section_spacing_source")
LATER = ("device", "output_format", "overwrite", "workspace")  # do not change the config


@dataclass(frozen=True)
class Options:
    """What the user asks for; sizes in nm.

    Attributes:
        volume: to segment.
        labels: of the volume, for scores; None: not scored.
        source: pairs of a volume and its labels; empty: a published set under the data root.
        pixel_size, section_spacing: of the volume; None: as the file says.
        pixel_size_source, section_spacing_source: of each source; None: as the files say.
        size: of the network; "auto": full on a GPU.
        run_name: of the folders; None: that of the volume.
        quick: predict with a shipped model.
        preview: work on a crop.
        overwrite: start again, whatever lies in the folders.
        output_format: of the results; None: that of the volume.
        device: name of the device.
        overrides: of the config, ``SECTION.key=value``.
        workspace: data root and output folder.
    """

    volume: str
    labels: str | None
    source: list[list[str]]
    pixel_size: float | None
    section_spacing: float | None
    pixel_size_source: list[float] | None
    section_spacing_source: list[float] | None
    size: Literal["auto", "full", "small"]
    run_name: str | None
    quick: bool
    preview: bool
    overwrite: bool
    output_format: str | None
    device: str
    overrides: list[str]
    workspace: Workspace

    def check(self) -> None:
        """Raise UserError if options contradict each other or a size is impossible."""
        if self.quick and self.preview:
            raise UserError("--quick and --preview: found both, expected one of them")
        if self.quick and (self.source or self.size != "auto"):
            option = "--source" if self.source else "--size"
            raise UserError(f"{option}: has no effect with --quick, which trains no network")
        for override in self.overrides:
            if override.partition("=")[0].strip() == "NAME":
                raise UserError(f"--set {override}: expected --run-name, which names the folders")
        for name in SIZES:
            option = f"--{name.replace('_', '-')}"
            check_sizes(option, getattr(self, name), len(self.source))

    def asked(self, volume: Volume) -> dict[str, Any]:
        """All that the config follows from, as JSON values; paths are absolute.

        For a preview this includes the files of the volume, as it works on a copy.
        """
        asked = {key: value for key, value in asdict(self).items() if key not in LATER}
        asked["volume"] = _whole(self.volume)
        asked["labels"] = self.labels and _whole(self.labels)
        asked["content"] = volume.fingerprint() if self.preview else None
        asked["source"] = [[_whole(path) for path in pair] for pair in self.source]
        return asked

    @property
    def name(self) -> str:
        """Name of the run: that of the volume by default, with an ending for parts of the work."""
        name = self.run_name
        if name is None:
            path = absolute(self.volume)
            place = find_volume(path) or Place(path)
            path = place.path
            named = path.is_dir() and path.suffix not in CONTAINERS
            address = address_of(path)
            name = name_of(address) if address else path.name if named else _stem(path.name)
            name += f"-{place.dataset.strip('/').replace('/', '-')}" if place.dataset else ""
            name += f"-{re.sub('[^0-9]+', '-', place.box).strip('-')}" if place.box else ""
        ending = "-quick" if self.quick else "-preview" if self.preview else ""
        return name + ending


def _whole(path: str) -> str:
    """An absolute path, or an address."""
    return address_of(path) or str(absolute(path))


def _stem(name: str) -> str:
    """A file name without its suffixes: ``stack`` for ``stack.ome.tif``."""
    stem = name
    for _ in range(2):
        before, dot, suffix = stem.rpartition(".")
        if before and dot and (stem == name or suffix.lower() in ("ome", "nii")):
            stem = before
    return stem
