"""Predict a volume into ``preds.hdf``, and write the masks and probabilities derived from it."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np

from dataloader.volume import resample
from prediction.compilation import shapes_to_compile
from prediction.derived import Derived
from prediction.fingerprint import differing, prediction_fingerprint
from prediction.inference import Inference
from prediction.metrics import THRESHOLD
from prediction.orthoplane import SlicingAxis, join
from prediction.outputs import (
    remove_earlier,
    remove_made_of_masks,
    remove_unfinished,
    single_predictions,
)
from prediction.store import PredictionStore, finished_fingerprint
from prediction.threshold import threshold_rule, write_threshold
from prediction.volume import predict_on_grid
from utils.errors import UserError, writing_to
from utils.files import part_of
from utils.progress import progress
from utils.runtime.distributed import Group, PeerLost
from utils.runtime.lock import lock_folder
from utils.runtime.signals import Interrupted, StopRequested, StopSignal, awaited_signals
from utils.runtime.threads import write_behind

SectionUser = Callable[[int, np.ndarray], None]  # index and probability (H, W)


def predict(inference: Inference, again: bool = False) -> Derived:
    """Write the probabilities to ``preds.hdf`` (``main``, float32), masks and probabilities.

    A section's predictions from several pairs are averaged, as published. Predictions of the same
    volume by the same weights with the same settings are kept: a finished ``preds.hdf`` as it is,
    and the sections of an earlier start that was interrupted.

    Args:
        inference: model, volume and folder.
        again: predict even if ``preds.hdf`` is finished.

    Returns:
        What was derived from the sections; empty in all processes but the main one.

    Raises:
        Interrupted: by SIGINT or SIGTERM; the same command continues.
    """
    group, threshold = inference.group, inference.config.TEST.threshold
    chosen = threshold_rule(threshold, inference.volume)
    derived = Derived(THRESHOLD if chosen else threshold)
    with writing_to(inference.out), ExitStack() as stack:
        inference.out.mkdir(parents=True, exist_ok=True)
        stop = stack.enter_context(awaited_signals())
        try:
            if group.is_main:
                stack.callback(lock_folder(inference.out, instead="--out FOLDER").release)
            finished = not again and _is_finished(inference)
            finished = bool(group.agree(int(finished)))
            if group.is_main:
                _remove_earlier(inference, finished)
                derived.open(inference, stack)
            derived.reused = finished
            if not finished:
                _compile(inference)
                fill = _predict_averaged if inference.averages else _predict_sections
                fill(inference, _keep_only if chosen else derived.add, stop)
            if chosen:
                _use(inference, chosen.add, stop)  # reads the volume, so not while others read it
                derived.threshold = chosen.threshold
            if group.is_main:
                _record_threshold(inference, derived.threshold)
            if chosen or finished:
                _use(inference, derived.add, stop)
            group.wait()  # until the threshold is recorded
        except StopRequested:
            raise Interrupted("interrupted; the same command goes on", stop.received) from None
        except PeerLost as error:
            raise UserError(f"{error}; the same command goes on") from None
    return derived


def _keep_only(index: int, probability: np.ndarray) -> None:
    """A section that is stored and used later."""


def _is_finished(inference: Inference) -> bool:
    """Whether ``preds.hdf`` is what this inference would predict; says so, or what differs."""
    if not inference.group.is_main or not inference.predictions.exists():
        return False
    earlier, name = finished_fingerprint(inference.predictions), inference.predictions.name
    if earlier is None:
        return False
    if changed := differing(earlier, _whole_fingerprint(inference)):
        if not part_of(inference.predictions).exists():
            inference.say(f"{name} is not kept ({', '.join(changed)} changed): predicting anew")
        return False
    inference.say(
        f"{name} holds this volume, predicted with these weights and settings: not predicted "
        "again (--repredict to force it)"
    )
    return True


def _remove_earlier(inference: Inference, finished: bool) -> None:
    """Remove the results of another prediction, and keep what this one continues from."""
    if finished:
        remove_unfinished(inference.out)
        return
    kept = [part_of(inference.predictions)]
    if inference.averages:
        singles = [single_predictions(inference.out, axis.name) for axis in inference.axes]
        kept += [part_of(path) for path in singles]
    remove_earlier(inference.out, kept)


def _compile(inference: Inference) -> None:
    """Compile the network where that saves time."""
    test = inference.config.TEST
    shapes = shapes_to_compile(
        test.compile,
        inference.axes,
        inference.network,
        test.batch_size,
        inference.group.size,
        test.flips,
    )
    if shapes and inference.group.is_main:
        inference.say("compiling the network, which takes up to a minute the first time")
    inference.network.compile_for(shapes)


def _use(inference: Inference, use: SectionUser, stop: StopSignal) -> None:
    """Pass the sections of a finished prediction on, in the main process."""
    if inference.group.is_main:
        for index in range(len(inference.raw)):
            use(index, inference.probability(index))
            stop.check()


def _record_threshold(inference: Inference, threshold: float) -> None:
    """Record the threshold; remove what an earlier call has made with another one."""
    if threshold != inference.threshold:
        remove_made_of_masks(inference.out)
        write_threshold(inference.predictions, threshold)


def _predict_sections(inference: Inference, use: SectionUser, stop: StopSignal) -> None:
    """Predict the volume's own sections, without averaging over others."""
    store = PredictionStore(
        inference.predictions,
        inference.raw.shape,
        inference.voxel_size,
        _whole_fingerprint(inference),
        inference.group,
    )
    _fill(inference, store, inference.axes[0], use, stop)
    if inference.group.is_main:
        store.finish(stop.check)


def _predict_averaged(inference: Inference, use: SectionUser, stop: StopSignal) -> None:
    """Predict along each axis on the working grid, then average on the volume's own."""
    stores = []
    for axis in inference.axes:
        path = single_predictions(inference.out, axis.name)
        depends_on, shape = _fingerprint(inference, axis), axis.volume.shape
        stores.append(PredictionStore(path, shape, None, depends_on, inference.group))
        _fill(inference, stores[-1], axis, None, stop)
    if not inference.group.is_main:
        return
    shape = inference.raw.shape
    averaged = PredictionStore(
        inference.predictions, shape, inference.voxel_size, _whole_fingerprint(inference), Group()
    )
    reads = [store.read for store in stores]
    for index, probability in join(inference.axes, reads, inference.out, stop.check):
        probability = np.clip(resample(probability, shape[1:]), 0, 1)
        probability = _without_blank(inference, index, probability)
        averaged.write(index, probability)
        use(index, probability)
    averaged.finish(stop.check)
    for store in stores:
        store.discard()


def _fill(
    inference: Inference,
    store: PredictionStore,
    axis: SlicingAxis,
    use: SectionUser | None,
    stop: StopSignal,
) -> None:
    """Predict this process's share of the sections that a store lacks.

    ``use`` is None where the sections are yet to be averaged with others.
    """
    group, final = inference.group, use is not None
    if not group.is_main:
        use = None
    done = store.done()
    group.wait()  # or sections that another process has just written would count as done
    _say_done(inference, store, axis, len(done))
    _use_stored(store, done, use)
    order = dict.fromkeys(index for pair in axis.pairs for index in pair)
    own = group.share([index for index in order if index not in done])

    def keep(index: int, probability: np.ndarray) -> None:
        if final:
            probability = _without_blank(inference, index, probability)
        store.write(index, probability)
        if use is not None:
            use(index, probability)

    task = axis.task(inference.config.TEST.batch_size)
    shape = store.shape[1:]
    sections = predict_on_grid(inference.predictor, task, shape, sections=set(own))
    count = len(done) + len(own)
    with write_behind(keep) as write:
        for index, probability in progress(sections, count, _unit(inference, axis), len(done)):
            write(index, probability)
            stop.check()
    group.wait()
    _use_stored(store, set(order) - done - set(own), use)  # of the other processes


def _use_stored(store: PredictionStore, sections: set[int], use: SectionUser | None) -> None:
    """Pass sections on; without ``use`` none is read, as the main process may have deleted them."""
    if use is not None:
        for index in sorted(sections):
            use(index, store.read(index))


def _say_done(inference: Inference, store: PredictionStore, axis: SlicingAxis, done: int) -> None:
    unit = _unit(inference, axis)
    if store.changed:
        inference.say(
            f"{unit}s of an unfinished prediction are not kept "
            f"({', '.join(store.changed)} changed): predicting anew"
        )
    if done:
        inference.say(f"{done} of {len(axis.volume)} {unit}s are predicted already")


def _unit(inference: Inference, axis: SlicingAxis) -> str:
    return "section" if len(inference.axes) == 1 else f"{axis.name} section"


def _without_blank(inference: Inference, index: int, probability: np.ndarray) -> np.ndarray:
    """A section's probability, 0 where the section is blank."""
    blank = inference.volume.own_blank(index)
    return probability if blank is None else np.where(blank, np.float32(0), probability)


def _fingerprint(inference: Inference, axis: SlicingAxis) -> dict[str, Any]:
    """What the predictions along an axis depend on."""
    test, size = inference.config.TEST, inference.voxel_size
    return prediction_fingerprint(
        axis,
        inference.network,
        test.batch_size,
        flips=test.flips,
        voxel_size=size and [float(step) for step in size],
    )


def _whole_fingerprint(inference: Inference) -> dict[str, Any]:
    """What ``preds.hdf`` depends on: the first axis, the averaging, and the other axes."""
    first, *others = inference.axes
    orthogonal = {}
    for axis in others:
        depends_on = _fingerprint(inference, axis)
        orthogonal[axis.name] = [depends_on["shape"], depends_on["windows"], axis.count]
    return _fingerprint(inference, first) | {"z_average": first.count, "orthoplane": orthogonal}
