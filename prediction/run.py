"""Predict a volume, score it, find its objects, draw it; prints the published lines."""

import time
from pathlib import Path
from typing import Any, NamedTuple

from dataloader.formats.opening import open_volume
from prediction.derived import Derived
from prediction.inference import Inference
from prediction.outputs import INSTANCES, OBJECTS, PICTURES, volume
from prediction.pictures import as_stored, contours, mask_picture
from prediction.predict import predict
from prediction.report.report import write_report
from prediction.report.view import add_layers
from prediction.scoring import find_objects, measure, segment
from prediction.summary import dtype_name, write_summary
from prediction.threshold import threshold_rule
from utils.errors import writing_to
from utils.files import write_picture
from utils.paths import shown
from utils.progress import stage
from utils.runtime.memory import peak_memory


class Wanted(NamedTuple):
    """What to do beyond the prediction.

    Attributes:
        measure: the scores, a key of ``MEASURES``.
        pictures: write ``seg_img/``.
        objects: find the mitochondria as objects.
        report: write ``report.html``.
        repredict: predict even if ``preds.hdf`` is finished.
    """

    measure: str = "map"
    pictures: bool = False
    objects: bool = False
    report: bool = False
    repredict: bool = False


def run(inference: Inference, wanted: Wanted) -> Path | None:
    """Predict, score where there are labels, and do what else is wanted.

    Of several processes, all but the main one only predict and find objects.

    Returns:
        The volume of the objects, which may be of an earlier inference; None without them.
    """
    say_start(inference)
    begin = time.perf_counter()
    with stage("predict"):
        derived = predict(inference, wanted.repredict)
    if not inference.group.is_main:
        if wanted.objects:
            segment(inference)
        return None
    results = say_predicted(inference, derived, time.perf_counter() - begin)
    results |= score(inference, wanted.measure, derived)
    if wanted.objects:
        inference.say("Finding mitochondria...")
        with stage("objects"):
            results["instance_scores"] = find_objects(inference)
    if wanted.pictures:
        inference.say("Show...")
        draw(inference)
    write_summary(inference, derived, results)
    inference.say(peak_memory(inference.network.device))
    found = (inference.out / OBJECTS).is_file()
    objects = volume(inference.out, INSTANCES, inference.output_format) if found else None
    if wanted.report:
        with stage("report"):
            report(inference, objects)
    return objects


def say_start(inference: Inference) -> None:
    """Print what will be predicted, with the published lines of tiled volumes."""
    say, raw, axis = inference.say, inference.raw, inference.axes[0]
    checkpoint = inference.checkpoint
    say(f"out_path: {shown(inference.out)}")
    say(
        f"checkpoint: {shown(inference.checkpoint_path)}, iteration {checkpoint.iteration}, "
        f"chosen by: {checkpoint.chosen_by}, precision: {dtype_name(inference.network.precision)}"
    )
    windows = len(axis.windows.corners) * len(axis.pairs)
    if raw.tiled:
        (top, bottom), (left, right) = axis.windows.padding
        sections, height, width = inference.volume.shape
        say(f"Load {shown(raw.path)}")
        say(f"raw shape: {raw.shape}")
        say(f"padded raw shape: {(sections, height + top + bottom, width + left + right)}")
        say(f"iters: {windows}")
        if inference.labels is not None:
            say(f"Load {shown(inference.labels.path)}")
    say("Begin inference...")
    if raw.tiled:
        say(f"the number of sub-volume: {windows}")


def say_predicted(inference: Inference, derived: Derived, seconds: float) -> dict[str, Any]:
    """Print how long the prediction took; returns it, and the blank share, for the summary."""
    if not derived.reused:
        pairs = sum(len(axis.windows.corners) * len(axis.pairs) for axis in inference.axes)
        inference.say(f"Prediction time (s): {seconds:.2f}")
        inference.say(f"pairs of windows per second: {pairs / seconds:.2f}")
    if rule := threshold_rule(inference.config.TEST.threshold, inference.volume):
        inference.say(
            f"masks: probability >= {derived.threshold:g}, {rule.chosen} (TEST.threshold)"
        )
    if blank := derived.blank_share:
        inference.say(
            f"blank areas: {blank:.2%} of the volume; filled from the tissue beside them, "
            "probability 0"
        )
    return {"blank": blank} | ({} if derived.reused else {"seconds": round(seconds, 2)})


def score(inference: Inference, name: str, derived: Derived) -> dict[str, Any]:
    """Score the prediction where there are labels; returns the scores for the summary."""
    say = inference.say
    if inference.labels is None:
        path = inference.config.DATA.data_dir_val_label
        say(f"No labels ({path or 'DATA.data_dir_val_label is not set'}): not scored")
        return {}
    say(f"Measure on {'dice and Jaccard' if name == 'dice' else 'mAP, F1, MCC, and IoU'}...")
    begin = time.perf_counter()
    measured = measure(inference, name, derived)
    first, *others = measured.lines()
    say(first)
    say(f"Measurement time (s): {time.perf_counter() - begin:.2f}")
    for line in others:
        say(line)
    return {
        "measure": name,
        "scores": measured.scores._asdict(),
        "scores_at_threshold": measured.own and measured.own._asdict(),
        "upper_bound": measured.best and measured.best._asdict(),
        "notes": measured.notes,
    }


def draw(inference: Inference) -> None:
    """Write ``seg_img/``: a folder's sections with contours, an HDF5 volume's masks."""
    folder, raw = inference.out / PICTURES, inference.raw
    with writing_to(folder):
        folder.mkdir(exist_ok=True)
        threshold = inference.threshold
        for index in range(len(raw)):
            mask = inference.probability(index) >= threshold
            picture = mask_picture(mask)[..., 0]
            if not raw.tiled:
                label = None if inference.labels is None else inference.labels.section(index)
                picture = contours(as_stored(raw.section(index)), mask, label)
            write_picture(folder / inference.picture_name(index), picture)


def report(inference: Inference, objects: Path | None) -> None:
    """Write ``report.html``."""
    with writing_to(inference.out):
        path = write_report(
            inference.out,
            inference.raw,
            inference.labels,
            inference.workspace.logs(inference.model),
            inference.config.DATA.target_stride,
            open_volume(objects, keep=False) if objects else None,
        )
    inference.say(f"report: {shown(path)}")


def view(inference: Inference, viewer: Any, objects: Path | None) -> None:
    """Add what there is to a viewer of napari."""
    add_layers(
        viewer, inference.raw, inference.out, inference.labels, objects, inference.voxel_size
    )
