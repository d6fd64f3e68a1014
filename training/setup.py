"""Builds the parts of a run: networks and their steps, pairs of both domains, validation."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from dataloader.corrections import CorrectedPairs
from dataloader.histogram_matching import match_histograms
from dataloader.inspection import START_SAMPLE, inspect_images, inspect_labels
from dataloader.pairs import Appearance, PairDataset, Sampling, check_crop_fits, check_same_shape
from dataloader.roles import at_common_size, open_corrections, open_images, open_labels
from dataloader.volume import Volume
from model.checkpoint import load_checkpoint, segmentor_from
from model.discriminator import build_discriminator
from model.segmentor import Segmentor
from training.compilation import compiles
from training.learner import Learner, Networks
from training.resuming import with_corrections, with_seed
from training.steps import DaIscStep, SupervisedStep
from training.validation import Validation
from utils.config.schema import Config
from utils.errors import UserError, warn
from utils.paths import Workspace, shown
from utils.runtime.device import can_compile, choose_precision, in_precision
from utils.runtime.distributed import Group

SEEDS = {"source": 0, "target": 1}  # the domains draw different random numbers
CORRECTED = 100  # appended to the target's seed; beyond its slicing axes


def settle(config: Config, workspace: Workspace, run: str, group: Group) -> Config:
    """Fill in what is known only when a run starts: seed, working pixel size, corrections.

    Raises:
        UserError: the processes cannot share a batch evenly, or a volume cannot be read.
    """
    train = config.TRAIN
    if train.batch_size % group.size:
        raise UserError(
            f"TRAIN.batch_size: found {train.batch_size}, expected a multiple of the "
            f"{group.size} processes that share it"
        )
    earlier = workspace.models(train.save_path, train.model_name or run)
    data = with_corrections(config.DATA, train, earlier)
    changes = {
        "TRAIN": with_seed(train, earlier, group),
        "DATA": at_common_size(workspace, data),
    }
    return config.model_copy(update=changes)


class Steps(NamedTuple):
    """The steps of a run; training/rounds.py decides which one an iteration takes.

    Attributes:
        adapt: trains on both domains; None if all weights of losses on the target are 0.
        source: trains on the source.
        target: trains on the target with the labels of a round.
    """

    adapt: DaIscStep | None
    source: SupervisedStep
    target: SupervisedStep


class Learning(NamedTuple):
    """The networks of a run and what trains them.

    Attributes:
        learner: updates the networks.
        networks: the same networks as functions, in the precision of the run.
        precision: of the convolutions.
        steps: the possible iterations.
    """

    learner: Learner
    networks: Networks
    precision: torch.dtype
    steps: Steps


def initial_weights(config: Config, workspace: Workspace) -> dict[str, Tensor] | None:
    """The weights of ``TRAIN.init_from``; None without it, and for a run that resumes.

    Raises:
        UserError: the file is missing or damaged, or its network has another width.
    """
    train = config.TRAIN
    if train.init_from is None or train.resume:
        return None
    path = workspace.file(train.init_from)
    checkpoint = load_checkpoint(path)
    weights, expected = segmentor_from(checkpoint, path).state_dict(), config.MODEL.width
    width = weights["section_full.conv1.bias"].numel()
    if width != expected:
        raise UserError(
            f"TRAIN.init_from: {path}: found a network of width {width}, expected {expected}; set "
            "MODEL.width"
        )
    size, working = checkpoint.pixel_size, config.DATA.pixel_size_working
    if size and working and size != working:
        warn(f"TRAIN.init_from: {path}: trained at {size:g} nm, this run is at {working:g} nm")
    return weights


def build_learning(
    config: Config,
    device: torch.device,
    group: Group | None = None,
    weights: dict[str, Tensor] | None = None,
) -> Learning:
    """Build networks on a device.

    Args:
        config: of the run.
        device: of the networks.
        group: processes that share each batch.
        weights: of the segmentor; None: random, from torch's global generator.
    """
    width, train, beyond = config.MODEL.width, config.TRAIN, config.BEYOND
    modules: list[nn.Module] = [
        Segmentor(width),
        build_discriminator(width),
        build_discriminator(width),
    ]
    if weights is not None:
        modules[0].load_state_dict(weights)
    elif beyond.head_prior:
        modules[0].begin_at(beyond.head_prior)
    modules = [module.to(device, memory_format=torch.channels_last) for module in modules]
    return join(modules, config, choose_precision(train.precision, device), group)


def join(
    modules: list[nn.Module],
    config: Config,
    precision: torch.dtype = torch.float32,
    group: Group | None = None,
) -> Learning:
    """Build what trains given networks.

    Args:
        modules: segmentor, discriminator of masks, discriminator of residuals; on one device.
        config: of the run.
        precision: of the convolutions.
        group: processes that share each batch.
    """
    segmentor, disc_seg, disc_residual = modules
    train = config.TRAIN
    trained = {"segmentor": segmentor}
    trained |= {"disc_seg": disc_seg} if train.weight_adv_spatial else {}
    trained |= {"disc_residual": disc_residual} if train.weight_adv_temporal else {}
    learner = Learner(trained, config, group)
    device = next(segmentor.parameters()).device
    compiled = compiles(config, device, precision, group.size if group else 1) and can_compile(
        device, "TRAIN.compile"
    )
    networks = Networks(
        in_precision(torch.compile(segmentor) if compiled else segmentor, precision),
        in_precision(disc_seg, precision),
        in_precision(disc_residual, precision),
    )
    steps = Steps(
        DaIscStep(networks, learner, train, config.warmup_iters) if train.adapts else None,
        SupervisedStep(networks.segmentor, learner, "source"),
        SupervisedStep(networks.segmentor, learner, "target"),
    )
    return Learning(learner, networks, precision, steps)


def open_source(workspace: Workspace, config: Config, crop: int) -> PairDataset:
    """The labelled pairs of the source, evenly from all volumes of ``DATA.sources``.

    Args:
        workspace: has the data root.
        config: of the run.
        crop: side of the training crops, pixels.

    Raises:
        UserError: a volume is missing or invalid.
    """
    first, *others = (
        open_pairs(workspace, config.model_copy(update={"DATA": data}), "source", crop)
        for data in config.DATA.each_source
    )
    for number, pairs in enumerate(others, start=1):
        pairs.sampling = pairs.sampling._replace(seed=(*pairs.sampling.seed, number))
    return first.labelled(first.labels, tuple(others))


def open_pairs(
    workspace: Workspace, config: Config, domain: Literal["source", "target"], crop: int
) -> PairDataset:
    """Open the training pairs of one volume; warn of common problems of the volume.

    Args:
        workspace: has the data root.
        config: of the run.
        domain: only the source has labels; those of the target are never opened.
        crop: side of the training crops, pixels.

    Raises:
        UserError: a volume is missing or invalid.
    """
    data, train = config.DATA, config.TRAIN
    images = open_images(workspace, data, domain)
    check_crop_fits(images, data.crop)  # also if a check uses smaller crops
    findings = [(images, inspect_images(images, START_SAMPLE))]
    labels, stride = None, data.target_stride
    if domain == "source":
        labels, stride = open_labels(workspace, data, "source"), data.source_stride
        check_same_shape(images, labels)
        findings.append((labels, inspect_labels(images, labels, START_SAMPLE)))
    for volume, found in findings:
        for line in found.warnings():
            warn(f"{shown(volume.path)}: {line}")
    seed, length = (train.random_seed, SEEDS[domain]), train.total_iters * train.batch_size
    augmented = config.BEYOND.augmented_fraction
    return PairDataset(images, labels, Sampling(stride, crop, seed, length, augmented))


def open_corrected(
    workspace: Workspace, config: Config, target: PairDataset
) -> CorrectedPairs | None:
    """The pairs of the target with corrected sections; None if there are none.

    Raises:
        UserError: the corrections are missing or do not fit the target.
    """
    labels = open_corrections(workspace, config.DATA, target.images)
    if labels is None:
        return None
    sampling = target.sampling
    sampling = sampling._replace(seed=(*sampling.seed, CORRECTED))
    return CorrectedPairs(target.images, labels, sampling)


def source_appearance(config: Config, source: PairDataset, target: PairDataset) -> Appearance:
    """What makes a source volume look like the target: ``BEYOND`` options, or nothing."""
    volumes = source.images, target.images
    transfer = match_histograms(*volumes) if config.BEYOND.histogram_matching else None
    beyond = config.BEYOND
    return Appearance(beyond.domain_randomisation, transfer, beyond.class_randomisation)


def open_validation(
    workspace: Workspace, config: Config, limit: int | None = None
) -> Validation | None:
    """The validation of a run; None if it is off or there are no labels.

    Args:
        workspace: has the data root.
        config: of the run.
        limit: number of pairs to score, for a quick check; None: all.
    """
    if not config.TRAIN.if_valid:
        return None
    labels = open_labels(workspace, config.DATA, "val", working=False)
    if labels is None:
        return None
    return Validation(config, open_images(workspace, config.DATA, "val"), labels, limit)


def fingerprints(
    sources: Iterable[tuple[Volume, Volume]], target: Volume, validation: Validation | None = None
) -> dict[str, str]:
    """The fingerprints of the files of all volumes, by the keys of the config.

    Args:
        sources: images and labels of each.
        target: its images.
        validation: of the run, if it has one.
    """
    volumes = {"data_dir_target": target}
    for number, (images, labels) in enumerate(sources):
        entry = f"sources[{number}]." if number else ""
        volumes[f"{entry}data_dir_img"] = images
        volumes[f"{entry}data_dir_label"] = labels
    if validation:
        volumes |= {"data_dir_val": validation.volume, "data_dir_val_label": validation.labels}
    return {f"DATA.{key}": volume.fingerprint() for key, volume in volumes.items()}
