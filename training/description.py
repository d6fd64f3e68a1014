"""Describes a run before it starts."""

from dataloader.corrections import CorrectedSections
from dataloader.pairs import PairDataset
from dataloader.roles import pixel_size
from dataloader.volume import Volume
from training.compilation import compiles
from training.rounds import phases
from training.trainer import Trainer
from utils.paths import shown


def describe(trainer: Trainer) -> list[str]:
    """Lines that describe what a run is about to do."""
    config = trainer.config
    lines = [f"random seed: {config.TRAIN.random_seed}"]
    sizes = {}
    several = len(trainer.source.members) > 1
    sources = zip(trainer.source.members, config.DATA.each_source, strict=True)
    for number, (pairs, data) in enumerate(sources, start=1):
        name = f"source {number}" if several else "source"
        lines.append(_pairs(name, pairs))
        sizes[name] = pixel_size(data, "source", pairs.images)
    lines.append(_pairs("target", trainer.target))
    if trainer.corrected:
        labels = trainer.corrected.labels
        lines.append(f"corrections: {shown(labels.path)}, sections {_listed(labels)}")
    if config.TRAIN.init_from:
        lines.append(f"initial weights: {config.TRAIN.init_from}")
    sizes["target"] = pixel_size(config.DATA, "target", trainer.target.images)
    if any(sizes.values()):
        known = ", ".join(f"{k} {f'{v:g} nm' if v else 'unknown'}" for k, v in sizes.items())
        working = config.DATA.pixel_size_working
        end = f"resampled to {working:g} nm" if working else "not resampled"
        lines.append(f"pixel size: {known}; {end}")
    if trainer.validation:
        lines.append(f"validation: {_shape(trainer.validation.volume)}")
    elif config.TRAIN.if_valid:
        lines.append("validation: none, there are no labels (DATA.data_dir_val_label)")
    else:
        lines.append("validation: none (TRAIN.if_valid)")
    planned = phases(config)
    rounds = ", ".join(str(phase.first) for phase in planned if phase.learns == "target")
    if rounds:
        lines.append(f"rounds: the target is labelled after iterations {rounds}")
    if trainer.crop != config.DATA.crop:
        lines.append(
            f"crops: {trainer.crop} pixels in this check, {config.DATA.crop} in a full run"
        )
    if compiles(config, trainer.device, trainer.precision, trainer.group.size):
        lines.append("the networks are compiled, which takes one to four minutes the first time")
    if all(phase.learns == "source" for phase in planned):
        lines.append("source only: the consistency and adversarial weights are all 0")
    return lines


def _listed(labels: CorrectedSections) -> str:
    names = [labels.names[labels.places[index]] for index in labels.corrected]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _pairs(name: str, pairs: PairDataset) -> str:
    return f"{name}: {_shape(pairs.images)}, stride {pairs.sampling.stride}"


def _shape(volume: Volume) -> str:
    sections, height, width = volume.shape
    return f"{shown(volume.path)}, {sections} sections of {height} x {width}"
