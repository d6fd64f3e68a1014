"""Build the volumes of the data tree from the official files."""

import hashlib
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path

import numpy as np

from dataloader.formats.base import VolumeSpec, VolumeWriter
from dataloader.formats.folder import section_files
from dataloader.formats.hdf5 import HDF5_SUFFIXES
from dataloader.formats.opening import open_volume
from dataloader.formats.registry import WRITERS
from dataloader.published.catalogue import OfficialFile, PublishedData, PublishedVolume
from dataloader.published.download import curl_command, fetch
from dataloader.published.label_checks import LabelChecks
from dataloader.published.sections import PublishedSections, find_sections, matching
from dataloader.published.sources import Source, find_sources
from utils.errors import UserError, warn, writing_to
from utils.files import part_of
from utils.paths import shown
from utils.progress import progress
from utils.runtime.lock import lock_folder
from utils.runtime.signals import Interrupted
from utils.runtime.threads import prefetch

DOWNLOADS = "downloads"  # below the data root
BLOCK = 1 << 22  # bytes


class Preparation:
    """Builds the missing volumes of a data set.

    A volume is written completely or not at all. After an interruption it is built from the start.

    Args:
        data: the data set.
        root: of the data tree; created if missing.
        given: zip archives, unpacked folders and files to read from.
        download: download what is not given into ``downloads/`` below the root.
        say: receives the lines for the user.
    """

    def __init__(
        self,
        data: PublishedData,
        root: Path,
        given: Sequence[Path] = (),
        download: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self.data, self.root, self.given, self.download = data, root, given, download
        self.say, self.folder, self.downloads = say, root / data.folder, root / DOWNLOADS

    def run(self) -> None:
        """Build the missing volumes.

        Raises:
            UserError: files are missing, damaged or unexpected; the network or the disc fails; or
                another process uses the folder. Nothing of the volume is left in the tree then.
            Interrupted: by Ctrl-C.
        """
        try:
            with warnings.catch_warnings(), writing_to(self.folder):
                warnings.simplefilter("ignore")  # Pillow warns before an error that we report
                lacking = [volume for volume in self.data.volumes if not self._is_there(volume)]
                if lacking:
                    sections = self._find(lacking)
                    self._check_digests(sections)
                    with self._locked():
                        for volume, (images, masks) in zip(lacking, sections, strict=True):
                            self._build(volume, images, masks)
        except KeyboardInterrupt:
            message = "interrupted; the same command builds the unfinished volume from the start"
            raise Interrupted(message, signal.SIGINT) from None

    def _places(self, volume: PublishedVolume) -> list[Path]:
        return [self.root / volume.images, self.root / volume.masks]

    def _is_there(self, volume: PublishedVolume) -> bool:
        shapes = [_shape(place) for place in self._places(volume)]
        for place, shape in zip(self._places(volume), shapes, strict=True):
            if shape not in (None, volume.shape):
                raise UserError(
                    f"{shown(place)}: found {_sized(shape)}, expected {_sized(volume.shape)}; "
                    "move it away so that it can be built"
                )
        if None in shapes:
            return False
        self.say(f"{shown(self.root / volume.images)}: exists already, with its masks")
        self._write_list(volume)
        return True

    def _find(
        self, volumes: list[PublishedVolume]
    ) -> list[tuple[PublishedSections, PublishedSections]]:
        """Images and masks of each volume, from the given and the downloaded files."""
        sources = self._sources()
        if self.download:
            self._fetch(_missing(volumes, sources))
            sources = self._sources()
        if missing := _missing(volumes, sources):
            self._complain(missing, sources)
        return [tuple(find_sections(w, v.shape, sources) for w in v.wanted) for v in volumes]

    def _sources(self) -> list[Source]:
        official = {file.name for file in self.data.files}
        return find_sources(self.given, self.downloads, official)

    def _complain(self, missing: list[OfficialFile], sources: list[Source]) -> None:
        """Raise UserError with the missing files and their addresses."""
        title, hint = self.data.title, self.data.mistaken_for and f" ({self.data.mistaken_for})"
        names = ", ".join(file.name for file in missing)
        if not self.given:
            self.say(f"{title} is built from")
            for file in self.data.files:
                self.say(f"  {file.name}{'' if file in missing else ' (found)'}\n    {file.url}")
            raise UserError(f"{title}: files are missing; give them with --from, or use --download")
        every = [wanted for volume in self.data.volumes for wanted in volume.wanted]
        for source in sources:
            if source.archive and not any(matching(wanted, source) for wanted in every):
                raise UserError(
                    f"{shown(source.archive)}: contains no files of {title}; expected {names}{hint}"
                )
        places = ", ".join(f"{file.name} ({file.url})" for file in missing)
        raise UserError(
            f"{title}: missing {places}; give them with --from, or use --download{hint}"
        )

    def _fetch(self, missing: list[OfficialFile]) -> None:
        """Download the files; raises UserError with a curl command for a large one."""
        self.downloads.mkdir(parents=True, exist_ok=True)
        for file in sorted(missing, key=lambda file: file.large):
            if file.large:
                raise UserError(
                    f"{file.name}: too large for --download; repeat this line until the file is "
                    f"complete, then run this command again: {curl_command(file, self.downloads)}"
                )
            self.say(f"downloading {file.url}")
            fetch(file, self.downloads)

    def _check_digests(self, sections: list[tuple[PublishedSections, PublishedSections]]) -> None:
        """Verify the SHA-256 of each archive and stack; raises UserError if it differs."""
        files = {found.single_file: found.wanted.file for pair in sections for found in pair}
        for path, official in files.items():
            if path is not None:
                self._check_digest(path, official)

    def _check_digest(self, path: Path, official: OfficialFile) -> None:
        digest, size = _sha256(path), path.stat().st_size
        known = official.sha256 if path.suffix == Path(official.name).suffix else None
        if known not in (None, digest):
            raise UserError(
                f"{shown(path)}: found SHA-256 {digest[:12]}..., expected {known[:12]}...; if the "
                "file is damaged, delete it and download it again; if the publishers changed it, "
                "unpack it and give the folder with --from"
            )
        if known is None and official.size not in (None, size):
            warn(f"{path.name} has {size:,} bytes, the official file {official.size:,}")
        published = "as published" if known else "no published value to compare with"
        self.say(f"{path.name}: SHA-256 {digest}, {published}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(self.folder, instead="--data DIR")
        try:
            yield
        finally:
            lock.release()

    def _build(
        self, volume: PublishedVolume, images: PublishedSections, masks: PublishedSections
    ) -> None:
        """Write the missing images or masks of a volume."""
        sections, places = volume.shape[0], self._places(volume)
        checks = LabelChecks(places[0], self.data.least_overlap)
        lacking = [_shape(place) is None for place in places]
        self._demand_space(prod(volume.shape) * sum(lacking))

        def read(index: int) -> tuple[np.ndarray, np.ndarray]:
            return images.read(index), masks.read(index)

        with ExitStack() as stack:
            writers = [
                stack.enter_context(_writer(place, volume.shape, discrete)) if lacks else None
                for place, lacks, discrete in zip(places, lacking, (False, True), strict=True)
            ]
            numbers = progress(range(sections), sections, "section")
            for index, (image, mask) in enumerate(prefetch(read, numbers, limit=1)):
                checks.add(image, mask, masks.where(index))
                for writer, section in zip(writers, (image, mask * np.uint8(255)), strict=True):
                    if writer is not None:
                        writer.write(index, section)
            checks.finish()
        self.say(f"{shown(places[0])}: {_sized(volume.shape)}; {checks}")
        self._write_list(volume)

    def _write_list(self, volume: PublishedVolume) -> None:
        """Write the list of all sections that the published configs name, if it is missing."""
        if volume.list_file is None or (self.root / volume.list_file).exists():
            return
        place = self.root / volume.list_file
        part_of(place).write_text(
            "".join(f"{file.name}\n" for file in section_files(self.root / volume.images)),
            encoding="utf-8",
        )
        part_of(place).replace(place)
        self.say(f"{shown(place)}: the names of all its sections")

    def _demand_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{shown(self.folder)}: {free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB "
                "needed"
            )


def _missing(volumes: list[PublishedVolume], sources: list[Source]) -> list[OfficialFile]:
    """The official files of which the sources have nothing."""
    wanted = [wanted for volume in volumes for wanted in volume.wanted]
    lacking = [w.file for w in wanted if not any(matching(w, source) for source in sources)]
    return list(dict.fromkeys(lacking))


def _writer(place: Path, shape: tuple[int, int, int], discrete: bool) -> VolumeWriter:
    """The writer for a path: HDF5 by its suffix, else a folder of PNG sections."""
    digits = len(str(shape[0] - 1))
    names = [f"{index:0{digits}d}.png" for index in range(shape[0])]
    kind = "hdf5" if place.suffix in HDF5_SUFFIXES else "folder"
    return WRITERS[kind](
        place.parent, place.stem, VolumeSpec(shape, np.uint8, None, names, discrete)
    )


def _shape(place: Path) -> tuple[int, int, int] | None:
    """(sections, height, width) of a volume; None if it is missing or an empty folder.

    Raises:
        UserError: there is something that is not a volume.
    """
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return None
    return tuple(open_volume(place, keep=False).shape)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(None, path.stat().st_size, "B") as bar:
        bar.set_description(f"SHA-256 of {path.name}")
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _sized(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} sections of {shape[1]} x {shape[2]}"
