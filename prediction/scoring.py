"""Scores of a finished prediction, of its pixels and of its objects."""

import math
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np

from dataloader.partial_labels import PartialLabels
from dataloader.volume import Volume
from prediction.derived import Derived
from prediction.inference import Inference
from prediction.instances.scores import MIN_COMPONENT, InstanceScorer
from prediction.instances.segmentation import Instances, InstanceSettings, mask_components
from prediction.instances.table import write_table
from prediction.measures import MEASURES
from prediction.metrics import (
    THRESHOLD,
    BestThreshold,
    Counts,
    DiceJaccard,
    DiceScores,
    PooledScores,
    Scores,
    SectionScores,
    UpperBound,
)
from prediction.outputs import INSTANCES, OBJECTS, SCORES
from utils.errors import UserError, writing_to
from utils.ignore import IGNORE, ignored_share
from utils.paths import shown
from utils.runtime.distributed import PeerLost


class Measured(NamedTuple):
    """The scores of ``preds.hdf``.

    Attributes:
        scores: as text such as ``mAP=0.8948, F1=0.8129, MCC=0.8053, IoU=0.6865``, of the masks at
            ``THRESHOLD``.
        notes: what to know of them: the measure, how many sections, what was left out.
        own: of the masks at the threshold of the inference; None if it is the same.
        threshold: of the inference.
        best: what the best threshold would give; None for dice, and without a labelled pixel.
    """

    scores: Scores | DiceJaccard
    notes: str
    own: Scores | DiceJaccard | None
    threshold: float
    best: UpperBound | None

    def lines(self) -> list[str]:
        """Scores and notes as text."""
        lines = [str(self.scores), self.notes]
        if self.own:
            rule = str(self.own).split(", ")  # mAP, if any, is the first, and needs no threshold
            own = ", ".join(part for part in rule if not part.startswith("mAP"))
            lines.insert(1, f"masks at {self.threshold:g}: {own}; above: at {THRESHOLD:g}")
        if self.best:
            lines.append(str(self.best))
        return lines


def measure(inference: Inference, name: str, derived: Derived) -> Measured:
    """Score ``preds.hdf``; write ``scores.txt`` and the scores of each section to ``derived``.

    Args:
        inference: with labels.
        name: ``map`` or ``map_2d`` per section, ``map_3d`` pooled, ``dice`` for dice and Jaccard
            of the masks. Validation during training differs: it scores the OR of the masks of
            single pairs.
        derived: of the sections.
    """
    kinds = {"map_3d": PooledScores, "dice": DiceScores}
    scorer, at_own = (kinds.get(name, SectionScores)() for _ in range(2))
    best = None if name == "dice" else BestThreshold(pooled=name == "map_3d")
    threshold = inference.threshold
    ignored = 0.0
    for index in range(len(inference.labels)):
        ignored += ignored_share(inference.labels.section(index)) / len(inference.labels)
        label, probability = inference.label(index), inference.probability(index)
        scorer.add(probability >= THRESHOLD if name == "dice" else probability, label)
        if best:
            best.add(probability, label)
        mask = probability >= threshold
        if threshold != THRESHOLD:
            at_own.add(mask if name == "dice" else mask.astype(np.float32), label)
        own = scorer.scores[-1].mAP if isinstance(scorer, SectionScores) else math.nan
        derived.rows[index] = _row(own, Counts.of(mask, label))
    notes = f"{name}: {MEASURES[name]}; {scorer.tally}"
    if isinstance(scorer, PooledScores):
        notes += f"; mAP exact to {scorer.mAP_bound:.0e}"
    if ignored:
        notes += f"; {ignored:.2%} of the labels' pixels are ignored"
    if blank := derived.blank_share:
        notes += f"; {blank:.2%} of the volume is blank, and not scored"
    own = None if threshold == THRESHOLD else at_own.result()
    measured = Measured(scorer.result(), notes, own, threshold, best and best.result())
    _write(inference, measured)
    return measured


def _row(mAP: float, counts: Counts) -> dict[str, float]:
    """A section's row of ``scores.csv``."""
    pixels = max(1, sum(counts))
    return {
        "mAP": mAP,
        "F1": counts.f1,
        "MCC": counts.mcc,
        "IoU": counts.iou,
        "foreground_predicted": (counts.tp + counts.fp) / pixels,
        "foreground_label": (counts.tp + counts.fn) / pixels,
    }


def _write(inference: Inference, measured: Measured) -> None:
    checkpoint = inference.checkpoint
    origin = (
        f"checkpoint={inference.checkpoint_path.name}, iteration={checkpoint.iteration}, "
        f"chosen by: {checkpoint.chosen_by}"
    )
    text = "\n".join([*measured.lines(), origin])
    with writing_to(inference.out):
        (inference.out / SCORES).write_text(text + "\n", encoding="utf-8")


def segment(inference: Inference) -> Instances:
    """The mitochondria as objects; shared by all processes, the main one has the result."""
    try:
        return Instances(
            inference.probability,
            inference.raw.shape,
            inference.voxel_size,
            InstanceSettings(threshold=inference.threshold),
            scratch=inference.out,
            group=inference.group,
        )
    except PeerLost as error:
        raise UserError(f"{error}; the same command goes on") from None


def find_objects(inference: Inference) -> dict[str, Any] | None:
    """Write the mitochondria as objects and ``objects.csv`` with their measures; score them.

    Returns:
        Scores by name; None where there is no labelled object.
    """
    size, out = inference.voxel_size, inference.out
    with writing_to(out), ExitStack() as stack:
        instances = stack.enter_context(segment(inference))
        labels, scorer = _labelled_objects(inference, stack)
        dtype = np.uint16 if len(instances.table) < 2**16 else np.uint32
        with inference.writer(INSTANCES, dtype) as writer:
            for index, section in instances.sections():
                writer.write(index, section.astype(dtype))
                if labels is not None:
                    scorer.add(section, labels.section(index), inference.label(index) == IGNORE)
        write_table(out / OBJECTS, instances.table, size)
    inference.say(instances.notes)
    inference.say(
        f"objects: {shown(out / OBJECTS)}, {shown(writer.path)}"
        + ("" if size else "; voxel size unknown, so all is in voxels")
    )
    if not scorer.has_labelled:
        missing = "labels" if labels is None else "labelled object"
        inference.say(f"instances: not scored, no {missing}")
        return None
    scores = scorer.result([row.mean_probability for row in instances.table])
    inference.say(f"{scores} (3-D IoU of 0.5 and 0.75); {scorer.notes}")
    return scores._asdict()


def _labelled_objects(
    inference: Inference, stack: ExitStack
) -> tuple[Volume | Instances | None, InstanceScorer]:
    """Labels that number the objects, or the components of binary ones; None without labels."""
    labels = inference.labels
    if isinstance(labels, PartialLabels):  # no object is labelled in 3-D
        labels = None
    if labels is None or labels.meaning.kind == "instances":
        return labels and labels.volume, InstanceScorer()
    inference.say(
        "binary labels: objects are scored against their 6-connected components of at least "
        f"{MIN_COMPONENT} voxels"
    )
    components = mask_components(
        lambda index: inference.label(index) == 1, inference.raw.shape, inference.out
    )
    return stack.enter_context(components), InstanceScorer(MIN_COMPONENT)
