"""Builds the data tree's volumes from the official files."""

import hashlib
import json
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from math import prod
from pathlib import Path

import numpy as np

from dataloader.formats.folder import SECTION_SUFFIXES, section_files
from dataloader.published.archives import LooseFiles, Members, files_in, open_archive
from dataloader.published.catalogue import OfficialFile, PublishedData, PublishedVolume
from dataloader.published.download import Patience, fetch
from dataloader.published.label_checks import LabelChecks
from dataloader.published.sections import PublishedSections, find_sections
from dataloader.published.volume_parts import (
    Journal,
    can_resume,
    discard,
    move_to_place,
    new_part,
    part_of,
    volume_shape,
)
from utils.errors import UserError, writing_to
from utils.paths import shown
from utils.progress import progress
from utils.runtime.signals import Interrupted, StopRequested, awaited_signals
from utils.runtime.threads import ahead

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DOWNLOADS = "downloads"  # below the data root
SOURCES = "sources.json"  # in a data set's folder
GO_ON = "interrupted; the same command goes on where it was"
SYNC_EVERY = 16  # sections; what a kill costs at most
BLOCK = 1 << 22  # bytes


class Preparation:
    """Builds the volumes of a data set that the tree does not have yet.

    Args:
        data: the data set.
        root: of the data tree; made where it is missing.
        given: archives, unpacked folders and files to read from.
        download: fetch what is not given into ``downloads/`` below the root.
        say: receives the lines for the user.
        patience: with the network.
    """

    def __init__(
        self,
        data: PublishedData,
        root: Path,
        given: Sequence[Path] = (),
        download: bool = False,
        say: Callable[[str], None] = print,
        patience: Patience = Patience(),  # noqa: B008 - immutable
    ) -> None:
        self.data, self.root, self.given, self.download = data, root, given, download
        self.say, self.patience = say, patience
        self.folder, self.downloads = root / data.folder, root / DOWNLOADS

    def run(self) -> None:
        """Build; what an earlier, interrupted call has done is not done again.

        Raises:
            UserError: files are missing, damaged or not what they should be; the network or the
                disc fails. The tree has nothing of the volume concerned then.
            Interrupted: by Ctrl-C, or while a volume is written by SIGTERM as well.
        """
        try:
            with warnings.catch_warnings(), writing_to(self.folder), locked(self.folder):
                warnings.simplefilter("ignore")  # of Pillow, before the error that we report
                volumes = [volume for volume in self.data.volumes if not self._is_there(volume)]
                if volumes:
                    self._build_all(volumes)
        except KeyboardInterrupt:
            raise Interrupted(GO_ON, signal.SIGINT) from None

    def _build_all(self, volumes: list[PublishedVolume]) -> None:
        with ExitStack() as stack:
            sources = self._sources(stack)
            missing = self._missing(volumes, sources)
            if missing and self.download:
                self._fetch(missing)
                sources = self._sources(stack)
                missing = self._missing(volumes, sources)
            if missing:
                self._complain(missing)
            record = DigestRecord(self.folder / SOURCES, self.say)
            for volume in volumes:
                images, masks = (
                    stack.enter_context(closing(find_sections(wanted, volume.shape, sources)))
                    for wanted in (volume.image_files, volume.mask_files)
                )
                tree = [place for v in self.data.volumes for place in self._places(v)]
                made_from = [record.check(found, tree) for found in (images, masks)]
                self._build(volume, images, masks, " ".join(made_from))

    # what there is

    def _places(self, volume: PublishedVolume) -> list[Path]:
        return [self.root / volume.images, self.root / volume.masks]

    def _journal(self, volume: PublishedVolume) -> Journal:
        images = self.root / volume.images
        return Journal(images.with_name(images.name + ".journal"))

    def _is_there(self, volume: PublishedVolume) -> bool:
        """Whether a volume is done; moves it to its place if only that is left to do."""
        journal = self._journal(volume)
        if journal.whole:
            self._finish(volume, journal)
        there = True
        for place in self._places(volume):
            shape = volume_shape(place)
            if shape not in (None, volume.shape):
                raise UserError(
                    f"{shown(place)}: found {_sized(shape)}, expected {_sized(volume.shape)}; "
                    "move it away, so that it can be made"
                )
            there = there and shape is not None
        if there:
            self.say(f"{shown(self._places(volume)[0])}: there already, with its masks")
            self._write_list(volume)
        return there

    def _write_list(self, volume: PublishedVolume) -> None:
        """Name all sections in the list that the published configs want, if it is not there."""
        if volume.list_file is None or (self.root / volume.list_file).exists():
            return
        place = self.root / volume.list_file
        part_of(place).write_text(
            "".join(f"{file.name}\n" for file in section_files(self.root / volume.images)),
            encoding="utf-8",
        )
        part_of(place).replace(place)
        self.say(f"{shown(place)}: the names of all its sections")

    def _sources(self, stack: ExitStack) -> list[Members]:
        """All that can be read from: loose files first, then archives as they were given."""
        official = {file.name for file in self.data.files}
        files: list[Path] = []
        for path in self.given:
            if path.is_dir():
                files += [f for f in files_in(path) if f.name in official or _is_image(f)]
            elif path.is_file():
                files.append(path)
            else:
                raise UserError(f"--from {path}: no such file or folder")
        files += [f for name in sorted(official) if (f := self.downloads / name).is_file()]
        archives = {file.resolve(): file for file in files if not _is_image(file)}
        sources: list[Members] = [LooseFiles(filter(_is_image, files))]
        for archive in archives.values():
            sources.append(open_archive(archive))
            stack.callback(sources[-1].close)
        return sources

    def _missing(
        self, volumes: list[PublishedVolume], sources: list[Members]
    ) -> list[OfficialFile]:
        """The official files of volumes of which the sources have nothing."""
        missing = []
        useless = [members.path for members in sources if members.path is not None]
        for volume in self.data.volumes:
            for wanted in (volume.image_files, volume.mask_files):
                found = find_sections(wanted, volume.shape, sources)
                if found is not None and found.members.path in useless:
                    useless.remove(found.members.path)
                if found is None and volume in volumes and wanted.file not in missing:
                    missing.append(wanted.file)
        if useless and missing:
            raise UserError(
                f"{shown(useless[0])}: holds nothing of {self.data.title}; "
                f"expected {_names(missing)}"
            )
        return missing

    def _complain(self, missing: list[OfficialFile]) -> None:
        if not self.given:
            self.say(f"{self.data.title} is made from")
            for file in self.data.files:
                self.say(f"  {file.name}{'' if file in missing else ' (there)'}")
                self.say(f"    {file.url or file.page}")
            raise UserError(
                f"{self.data.title}: nothing to make it from; give these with --from, or --download"
            )
        wanted = ", ".join(f"{file.name} ({file.url or file.page})" for file in missing)
        raise UserError(f"{self.data.title}: missing {wanted}; give --from FILES, or --download")

    def _fetch(self, missing: list[OfficialFile]) -> None:
        for file in missing:
            if file.url is None:
                raise UserError(
                    f"{file.name}: no address known; get it from {file.page} and give it with "
                    "--from"
                )
        self.downloads.mkdir(parents=True, exist_ok=True)
        for file in missing:
            self.say(f"downloading {file.url}")
            fetch(file.url, self.downloads / file.name, self.say, self.patience)

    # building

    def _build(
        self,
        volume: PublishedVolume,
        images: PublishedSections,
        masks: PublishedSections,
        made_from: str,
    ) -> None:
        """Make a volume; ``made_from`` tells its source from any other."""
        journal = self._journal(volume)
        with awaited_signals() as asked:  # a callback, of a weak reference say, swallows Ctrl-C
            try:
                self._write(volume, images, masks, journal, made_from, asked.check)
                self._finish(volume, journal)
                self._write_list(volume)
                asked.check()
            except UserError:
                self._discard(volume, journal)
                raise
            except StopRequested:
                raise Interrupted(GO_ON, asked.received) from None

    def _write(
        self,
        volume: PublishedVolume,
        images: PublishedSections,
        masks: PublishedSections,
        journal: Journal,
        made_from: str,
        check: Callable[[], None],
    ) -> None:
        """Write the parts of what is not there, from where the journal says.

        ``check`` is called before each section and may raise.
        """
        images_place, masks_place = places = self._places(volume)
        lacking = [place for place in places if volume_shape(place) is None]
        resume = journal.made_from == made_from and all(
            can_resume(place, volume.shape, journal.sections) for place in lacking
        )
        if not resume:
            self._discard(volume, journal)
            self._demand_space(prod(volume.shape) * len(lacking))
            journal.save(made_from=made_from)
        start, sections = journal.sections, volume.shape[0]
        checks = LabelChecks(images_place, self.data.least_overlap, journal.checks)

        def read(index: int) -> tuple[int, np.ndarray, np.ndarray]:
            return index, images.read(index), masks.read(index)

        with ExitStack() as stack:
            parts = {}
            for place in lacking:
                parts[place] = new_part(place, volume.shape, resume)
                stack.callback(parts[place].close)
            if start:
                checks.begin(*read(start - 1)[1:])
            numbers = progress(range(start, sections), sections, "section", start)
            for index, image, mask in ahead(read, numbers, depth=1):
                check()
                checks.add(image, mask, masks.where(index))
                for place, section in ((images_place, image), (masks_place, mask * np.uint8(255))):
                    if place in parts:
                        parts[place].write(index, section)
                if (index + 1) % SYNC_EVERY == 0:
                    for part in parts.values():
                        part.sync()
                    journal.save(sections=index + 1, checks=checks.state)
            for part in parts.values():
                part.sync()
        checks.finish()
        journal.save(sections=sections, checks=checks.state, whole=True)
        self.say(f"{shown(images_place)}: {_sized(volume.shape)}; {checks}")

    def _finish(self, volume: PublishedVolume, journal: Journal) -> None:
        """Move the whole parts to their places."""
        for place in self._places(volume):
            if part_of(place).exists() and volume_shape(place) is None:
                move_to_place(place)
        self._discard(volume, journal)

    def _discard(self, volume: PublishedVolume, journal: Journal) -> None:
        """Delete what is not in its place."""
        for place in self._places(volume):
            discard(part_of(place))
        journal.remove()

    def _demand_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{shown(self.folder)}: {free / 1e9:.1f} GB free, up to "
                f"{needed / 1e9:.1f} GB needed"
            )


class DigestRecord:
    """SHA-256 of the official files, as they were when volumes were made of them.

    Args:
        file: JSON, one entry for each file by its name.
        say: receives the lines for the user.
    """

    def __init__(self, file: Path, say: Callable[[str], None]) -> None:
        self.file, self.say = file, say
        self.seen: set[Path] = set()
        try:
            self.entries: dict[str, dict] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.entries = {}

    def check(self, sections: PublishedSections, tree: list[Path]) -> str:
        """What tells a source from any other: its digest, if it is one file.

        The digest is compared with the published one where that is known, else with the recorded.

        Args:
            sections: read from the source.
            tree: volumes that were, or will be, made from it and others.

        Raises:
            UserError: it is not the file it should be.
        """
        path = _single_file(sections)
        if path is None:
            return _fingerprint(sections.used)
        if path in self.seen:
            return self.entries[path.name]["sha256"]
        stat = path.stat()
        entry = {"bytes": stat.st_size, "modified": stat.st_mtime_ns, "path": str(path.resolve())}
        recorded = self.entries.get(path.name, {})
        unchanged = entry == {key: recorded.get(key) for key in entry}
        entry["sha256"] = recorded["sha256"] if unchanged else _sha256(path)
        official = sections.wanted.file
        known = official.sha256 if path.suffix == Path(official.name).suffix else None
        if known not in (None, entry["sha256"]):
            raise UserError(
                f"{shown(path)}: SHA-256 {entry['sha256'][:12]}..., expected {known[:12]}...; "
                "damaged, delete it and get it anew; if the publishers changed it, unpack it and "
                "give the folder with --from"
            )
        made = next((place for place in tree if volume_shape(place) is not None), None)
        if made and recorded and recorded["sha256"] != entry["sha256"]:
            raise UserError(
                f"{shown(path)}: not the file that {shown(made)} was made from (SHA-256 in "
                f"{shown(self.file)}); give that one, or delete both"
            )
        if known is None and official.bytes not in (None, stat.st_size):
            self.say(
                f"warning: {path.name} has {stat.st_size:,} bytes, the official file "
                f"{official.bytes:,}"
            )
        self._record(path, entry)
        verdict = "as published" if known else f"recorded in {shown(self.file)}"
        self.say(f"{path.name}: SHA-256 {entry['sha256'][:12]}..., {verdict}")
        return entry["sha256"]

    def _record(self, path: Path, entry: dict) -> None:
        self.entries[path.name] = entry
        self.seen.add(path)
        beside = part_of(self.file)
        beside.write_text(json.dumps(self.entries, indent=2) + "\n", encoding="utf-8")
        beside.replace(self.file)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder to oneself; where it was made for that and nothing came into it, it goes.

    Raises:
        UserError: another process has it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle = None
    try:
        if fcntl is not None:
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{shown(folder)}: another process is preparing it") from None
        yield
    finally:
        if handle is not None:
            os.close(handle)
        for place in made:
            if not any(place.iterdir()):
                place.rmdir()


def _single_file(sections: PublishedSections) -> Path | None:
    """The one file that sections are read from; None: each has its own."""
    if sections.members.path is not None:
        return sections.members.path
    return Path(sections.used[0]) if sections.is_stack else None


def _fingerprint(names: list[str]) -> str:
    """Of loose files: their names, sizes and times."""
    stats = [(name, (stat := Path(name).stat()).st_size, stat.st_mtime_ns) for name in names]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(None, path.stat().st_size, "B") as bar:
        bar.set_description(f"SHA-256 of {path.name}")
        while block := file.read(BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SECTION_SUFFIXES


def _names(files: Sequence[OfficialFile]) -> str:
    return ", ".join(file.name for file in files)


def _sized(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} sections of {shape[1]} x {shape[2]}"
