"""The config of ``segment.py``: to adapt to a volume, or to predict it with a shipped model."""

from typing import Any

import yaml

from dataloader.formats.voxel_size import VoxelSize
from dataloader.volume import TILED_FROM
from prediction.shipped import MODELS, ShippedModel, quick_model
from prediction.windows import MARGIN, round_up
from prediction.z_average import sections_in
from training.propose_config import (
    MATCHED,
    RANDOMISED,
    Keys,
    Proposal,
    RunSize,
    SeveralSources,
    VolumeFacts,
    propose,
)
from utils.config.schema import Config
from utils.paths import CONFIG_DIR

SOURCE_SPACING = 50.0  # nm, of the sections that labels are usually drawn in


def propose_adaptation(sources: list[VolumeFacts], target: VolumeFacts, size: RunSize) -> Proposal:
    """The recipe that goes beyond the paper. Labels of the target only score the result."""
    proposal = propose(sources, target, size, plus=True)
    proposal["TRAIN"]["if_valid"] = (False, "labels of the target only score the result")
    working, _ = proposal["DATA"]["pixel_size_working"]
    proposal["TEST"] = proposal.get("TEST", {}) | _windows(target, working)
    return proposal


def _windows(target: VolumeFacts, working: float | None) -> Keys:
    """Whole sections as windows if they are not large, also of an HDF5 volume."""
    shape = target.shape_at(working)
    if max(shape) > TILED_FROM:
        return {"windows": ("tile", "sections are large"), "padded_size": (None, "")}
    padded = [round_up(side + MARGIN) for side in shape]
    return {
        "windows": ("section", "whole sections"),
        "padded_size": (padded, "whole sections are reflect-padded to this size"),
    }


def propose_preview(sources: list[VolumeFacts], target: VolumeFacts, size: RunSize) -> Proposal:
    """The recipe for a run that is too short for the usual one.

    The labels of a network that has not learned the source yet lack most mitochondria, and
    training on them confirms that. So it learns from the source for longer, and not at random.
    """
    proposal = propose_adaptation(sources, target, size)
    usual = {key: value for key, value in proposal["BEYOND"].items() if key not in RANDOMISED}
    proposal["BEYOND"] = usual | {
        **MATCHED,
        "warmup_fraction": (0.8, "fraction of the run on the source alone"),
        "rounds": (1, "times the target is labelled and trained on after that"),
    }
    proposal["TRAIN"]["compile"] = (False, "does not pay in so short a run")
    return proposal


def config_of(proposal: Proposal, name: str) -> Config:
    """The config of a proposal."""
    values = {section: _values(keys) for section, keys in proposal.items()}
    return Config.model_validate({"NAME": name} | values)


def _values(keys: Keys) -> dict[str, Any]:
    """The values of keys, without their comments."""
    return {
        key: [_values(entry) for entry in value.entries]
        if isinstance(value, SeveralSources)
        else value
        for key, (value, _) in keys.items()
    }


def propose_quick(target: VolumeFacts) -> tuple[Proposal, list[str]]:
    """The config of a shipped model for another volume, see ``quick_model``.

    Returns:
        The proposal, and lines that say which model it is and what that is worth.
    """
    model = quick_model(VoxelSize(target.spacing, target.pixel, target.pixel))
    text = (CONFIG_DIR / f"{model.name}.yaml").read_text(encoding="utf-8")
    written = {key: value for key, value in yaml.safe_load(text).items() if key != "NAME"}
    proposal = {
        section: {key: (value, "") for key, value in keys.items()}
        for section, keys in written.items()
    }
    where = target.images.where
    proposal["TRAIN"]["save_path"] = (str(MODELS), "folder of the shipped models")
    proposal["DATA"] |= {
        "data_dir_target": (where, "the volume"),
        "data_dir_val": (where, "the volume to predict and to score"),
        "data_dir_val_label": (target.labels and target.labels.where, "its labels, if any"),
        "target_stride": (_stride(model, target), "distance of the two sections of a pair"),
        "pixel_size_target": (target.pixel if target.square else None, "nm, in-plane"),
        "section_spacing_target": (target.spacing, "nm, between sections"),
    }
    test = proposal.setdefault("TEST", {})
    if not target.spacing:
        test["z_average"] = (None, "no spacing, no neighbours to average over")
    elif model.general and sections_in(SOURCE_SPACING, target.spacing) > 1:
        comment = "nm, spacing of the sources' sections; predictions are averaged over it"
        test["z_average"] = (SOURCE_SPACING, comment)
    test["model_name"] = (model.name, "the shipped model")
    test |= _windows(target, model.config.DATA.pixel_size_working)
    return proposal, worth(model)


def worth(model: ShippedModel) -> list[str]:
    """What is known of the quality of a shipped model."""
    known, origin = "its card has no scores", f"adapted to voxels of {model.voxel_size}"
    if model.general:
        origin = f"of {len(model.config.DATA.each_source)} labelled volumes"
    if model.f1 is not None:
        known = f"F1 {model.f1:g} % on {model.config.DATA.data_dir_val} (its card)"
    return [
        f"model: {model.name}, shipped, {origin}",
        f"  worth: {known}; on your volume it may be far less:",
        "  look at the report. Without --quick the network adapts to your volume.",
    ]


def _stride(model: ShippedModel, target: VolumeFacts) -> int:
    """The stride at which sections are as far apart as in the volume the model was adapted to."""
    limit = max(1, (len(target.images) - 1) // 2)
    if not target.spacing:
        return 1
    apart = model.config.DATA.target_stride * model.voxel_size.z
    return max(1, min(round(apart / target.spacing), limit))
