"""What may change in the config of a run when it resumes, and what it takes over."""

import secrets
from pathlib import Path
from typing import Any

from model.checkpoint import load_state
from utils.config.load import flat
from utils.config.removed import REMOVED
from utils.config.schema import Config, DataSettings, Ignored, TrainSettings
from utils.runtime.distributed import Group

# The results of a run do not depend on these keys.
FREE = {
    "NAME",
    "TRAIN.num_workers",
    "TRAIN.if_cuda",
    "TRAIN.display_freq",
    "TRAIN.show_freq",
    "TRAIN.save_freq",
    "TRAIN.keep_checkpoints",
    "TRAIN.on_nan",
    "TRAIN.init_from",
    "TRAIN.resume",
    "TRAIN.model_name",
    "TRAIN.save_path",
}
FREE_SECTIONS = ("TEST.", "DATA.data_dir_")  # volumes may have been moved
# With another network or other random numbers it would be another run.
FIXED = {
    "MODEL.width",
    "TRAIN.random_seed",
    "TRAIN.batch_size",
    "TRAIN.opt_type",
    "DATA.input_size",
    "DATA.sources",
    "DATA.source_stride",
    "DATA.target_stride",
    "DATA.pixel_size_source",
    "DATA.pixel_size_target",
    "DATA.pixel_size_working",
    "DATA.section_spacing_source",
    "DATA.section_spacing_target",
    "DATA.section_thickness",
}


def with_seed(train: TrainSettings, earlier: Path, group: Group) -> TrainSettings:
    """Replace a seed of -1 by a random one, or by that of the run that resumes.

    Args:
        train: the settings.
        earlier: folder with the state to resume from, if ``train.resume``.
        group: the processes; all get the same seed.

    Raises:
        UserError: there is no state to resume from.
    """
    if train.random_seed >= 0:
        return train
    seed = None
    if train.resume:
        seed = _saved(earlier, "TRAIN.random_seed")
    if seed is None:
        seed = group.agree(secrets.randbelow(2**32))
    return train.model_copy(update={"random_seed": seed})


def with_corrections(data: DataSettings, train: TrainSettings, earlier: Path) -> DataSettings:
    """Take over the corrections of the run that resumes, if none are given.

    Args:
        data, train: the settings.
        earlier: folder with the state to resume from, if ``train.resume``.

    Raises:
        UserError: there is no state to resume from.
    """
    if not train.resume or data.corrections:
        return data
    corrections = _saved(earlier, "DATA.corrections")
    if not isinstance(corrections, str):
        return data
    return data.model_copy(update={"corrections": Path(corrections)})


def _saved(earlier: Path, key: str) -> Any:
    """The value of a key in the config of the state in a folder; None if it has none."""
    state = load_state(earlier)[0]
    config = state.get("config") if isinstance(state, dict) else None  # checked when it is resumed
    return flat(config).get(key) if isinstance(config, dict) else None


def changes(earlier: dict, config: Config) -> tuple[list[str], list[str]]:
    """Compare a config with the one that a run was saved with.

    Args:
        earlier: the saved values, by section and key; keys that it lacks are not compared.
        config: the config to resume with.

    Returns:
        Changes that make it another run, and changes that only deserve a warning, each as
        "key: was old, is new".
    """
    fixed, warned = [], []
    before = flat(earlier)
    for key, gone in REMOVED.items():
        if (old := before.get(key, gone.off)) != gone.off:
            change = f"{key}: was {old}, is gone since the revision after {gone.last}"
            (fixed if key in FIXED else warned).append(change)
    for key, new in flat(config.model_dump(mode="json")).items():
        old = before.get(key, new)
        if old == new or key in FREE or key.startswith(FREE_SECTIONS) or _is_ignored(key):
            continue
        (fixed if key in FIXED else warned).append(f"{key}: was {old}, is {new}")
    return fixed, warned


def changed_volumes(earlier: dict[str, str], now: dict[str, str]) -> list[str]:
    """A line for each volume whose files have changed since a run was saved.

    Args:
        earlier: saved fingerprints, by the keys of the config; missing ones are not compared.
        now: current fingerprints.
    """
    return [
        f"{key}: its files have changed (names, sizes or times)"
        for key, fingerprint in now.items()
        if earlier.get(key, fingerprint) != fingerprint
    ]


def _is_ignored(key: str) -> bool:
    section, _, name = key.partition(".")
    field = Config.model_fields[section].annotation
    fields = getattr(field, "model_fields", {})
    return name in fields and fields[name].annotation is Ignored
