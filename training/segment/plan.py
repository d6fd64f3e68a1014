"""What ``segment.py`` does: with which config, in which folders, and for how long."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dataloader.roles import open_images
from prediction.outputs import PREDICTIONS
from training.new_config import inspect
from training.propose_config import FULL, SMALL, Proposal, RunSize, VolumeFacts
from training.segment.adapt import find_earlier
from training.segment.estimate import ADAPT, Speed, estimate, measure_speed
from training.segment.options import Options
from training.segment.proposal import propose_adaptation, propose_preview, propose_quick
from training.segment.record import (
    CONFIG,
    Record,
    changed_options,
    load_recorded,
    read_record,
    write_record,
)
from training.segment.sample import choose_sample, write_sample
from training.segment.sources import choose_sources
from utils.cli import folder_name
from utils.config.schema import Config
from utils.errors import UserError, writing_to
from utils.paths import shown
from utils.progress import Stage, about

SINGLE = "one section cannot be adapted to, as the network learns from pairs; give --quick"


class Plan(NamedTuple):
    """What to do.

    Attributes:
        options: of the command.
        name: of the folders in ``logs/``, ``models/`` and ``inference/``.
        folder: for the results.
        config: of the run and of the prediction.
        device: to compute on.
        trains: whether there is something to train.
        resumes: whether an earlier run is continued.
        start: iterations that it has done.
        stages: with about how long they take.
    """

    options: Options
    name: str
    folder: Path
    config: Config
    device: torch.device
    trains: bool = True
    resumes: bool = False
    start: int = 0
    stages: list[Stage] = []  # noqa: RUF012 - never changed

    @property
    def model(self) -> str:
        """Folder in ``models/`` with the network to predict with."""
        return self.config.TEST.model_name or self.name if self.options.quick else self.name


class Place(NamedTuple):
    """Where the work is done.

    Attributes:
        folder: for the results.
        device: to compute on.
        began: ``time.perf_counter()`` at the start of the command.
    """

    folder: Path
    device: torch.device
    began: float


class Work(NamedTuple):
    """What is proposed before it is written.

    Attributes:
        proposal: of the config.
        notes: lines on what will be done.
        speed: of the machine, if it was measured.
    """

    proposal: Proposal
    notes: list[str]
    speed: Speed | None = None


def open_plan(options: Options, device: torch.device, began: float) -> Plan:
    """Inspect the volume, and take the config of an earlier call or write a new one; says so.

    Args:
        options: of the command.
        device: to compute on.
        began: ``time.perf_counter()`` at the start of the command.

    Raises:
        UserError: a volume is unreadable, a size is unknown, there is no source, or the folders
            hold something else.
    """
    options.check()
    name = folder_name("--run-name", options.name)
    folder = options.workspace.inference(name)
    target = inspect(
        "volume", options.volume, options.labels, options.pixel_size, options.section_spacing
    )
    _require_sizes(target, options)
    record = None if options.overwrite else read_record(folder)
    if record is None and not options.overwrite:
        _require_unused(options, name, folder)
    asked = options.asked(target.images)
    if record is not None and _keeps(record, asked):
        config, notes, speed = load_recorded(record), record.notes, None
        state = "as you edited it" if record.edited else "of an earlier call"
        if not options.quick:
            for data in config.DATA.each_source:
                print(f"source: {shown(options.workspace.data_path(data.data_dir_img))}")
    else:
        work = _propose(options, target, Place(folder, device, began))
        config = write_record(folder, name, work.proposal, asked, work.notes)
        notes, speed, state = work.notes, work.speed, "edit it and run again"
    for line in notes:
        print(line)
    plan = Plan(options, name, folder, config, device)
    plan = plan._replace(**_training(plan))
    speed = speed or measure_speed(config, device, plan.trains)
    volume = open_images(options.workspace, config.DATA, "val", keep=False)
    plan = plan._replace(stages=estimate(config, volume, speed, folder, plan.trains, plan.start))
    for line in _summary(plan, state):
        print(line)
    return plan


def _training(plan: Plan) -> dict[str, Any]:
    """Fields of a plan: whether to train, and from where; says what is kept of an earlier run."""
    options = plan.options
    if options.quick:
        return {"trains": False}
    earlier = None
    if not options.overwrite:
        earlier = find_earlier(options.workspace, plan.config, plan.name)
    if earlier is None:
        return {}
    if earlier.changes:
        print(f"{ADAPT}: anew, as there are changes ({'; '.join(earlier.changes)})")
        return {}
    if earlier.finished:
        print(f"{ADAPT}: kept from an earlier call")
        return {"trains": False}
    print(f"{ADAPT}: goes on at iteration {earlier.iteration:,}")
    return {"resumes": True, "start": earlier.iteration}


def _summary(plan: Plan, state: str) -> Iterator[str]:
    """Lines on what will be done."""
    config, stages = plan.config, plan.stages
    if plan.trains:
        yield (
            f"plan: {config.TRAIN.total_iters:,} iterations of a network of width "
            f"{config.MODEL.width}; no labels of yours are used"
        )
    parts = ", ".join(f"{stage.name} {about(stage.left)[6:]}" for stage in stages)
    yield f"time here: {about(sum(stage.left for stage in stages))} ({parts})"
    yield f"config: {shown(plan.folder / CONFIG)}, {state}"


def _require_sizes(target: VolumeFacts, options: Options) -> None:
    """Check that the voxel size is known, and that there is more than one section to adapt to."""
    single = len(target.images) == 1
    if single and not options.quick:
        raise UserError(f"{options.volume}: {SINGLE}")
    missing = [] if target.pixel else ["--pixel-size NM (in the plane of the sections)"]
    if not target.spacing and not single:
        missing.append("--section-spacing NM (from section to section)")
    if missing:
        raise UserError(
            f"{options.volume}: the file gives no {'pixel size' if not target.pixel else 'spacing'}"
            f"; add {' and '.join(missing)}"
        )


def _require_unused(options: Options, name: str, folder: Path) -> None:
    """Check that no folder holds what this command has not written."""
    places = [folder / PREDICTIONS]
    if not options.quick:
        places += [
            options.workspace.logs(name) / "train.log",
            options.workspace.out / "models" / name,
        ]
    for place in places:
        if place.is_file() or (place.is_dir() and any(place.iterdir())):
            raise UserError(
                f"{shown(place)}: of another run; give --run-name NAME to keep it, or --overwrite"
            )


def _keeps(record: Record, asked: dict[str, Any]) -> bool:
    """Whether the config of an earlier call is used.

    Raises:
        UserError: it was edited, but the options have changed as well.
    """
    changed = changed_options(record.asked, asked)
    if changed and record.edited:
        raise UserError(
            f"{shown(record.config)}: edited, but the call that wrote it had other options "
            f"({', '.join(changed)}); give those, --run-name NAME for a new run, or --overwrite"
        )
    if changed:
        print(f"config: written anew ({', '.join(changed)} changed)")
    return not changed


def _propose(options: Options, target: VolumeFacts, place: Place) -> Work:
    if options.quick:
        return Work(*propose_quick(target))
    sources = choose_sources(options, target)
    full = options.size == "full" or (options.size == "auto" and place.device.type != "cpu")
    size = FULL if full else SMALL
    if options.preview:
        return _propose_preview(sources, target, size, place)
    return Work(propose_adaptation(sources, target, size), [])


def _propose_preview(
    sources: list[VolumeFacts], target: VolumeFacts, size: RunSize, place: Place
) -> Work:
    sample, speed = choose_sample(sources, target, size, place.device, place.began)
    with writing_to(place.folder):
        place.folder.mkdir(parents=True, exist_ok=True)
        part = write_sample(target, sample.shape, place.folder)
    proposal = propose_preview(sources, part, size._replace(iterations=sample.iterations))
    return Work(proposal, sample.notes, speed)
