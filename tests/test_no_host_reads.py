"""Nothing waits for the device between two logging points, and no tensor is left on the host.

The networks are on PyTorch's ``meta`` device, whose tensors have no values: reading one fails. What
remains are operations that mix devices and copies to the host; ``OnDevice`` finds them.
"""

import importlib
import itertools
from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from prediction.predictor import FlippedPredictor, NetworkPredictor, Task, predict_volume
from prediction.volume import choose_pairs, choose_windows
from tests.projects import Project
from training.log import RunLog
from training.trainer import Trainer, tensors
from utils.config.load import load_config
from utils.paths import CONFIG_DIR, Workspace
from utils.runtime.signals import StopSignal

META = torch.device("meta")
COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}
SETTINGS = (
    *("TRAIN.total_iters=8", "TRAIN.display_freq=4", "TRAIN.show_freq=4", "TRAIN.valid_freq=4"),
    *("TRAIN.save_freq=4", "TRAIN.compile=false", "DATA.data_dir_val=target.hdf"),
    *("DATA.data_dir_val_label=target_groundtruth.hdf", "DATA.input_size_test=32"),
    *("TEST.tile_step=32", "TEST.batch_size=2"),
)
SUPERVISED = (
    *("TRAIN.weight_adv_spatial=0", "TRAIN.weight_adv_temporal=0"),
    *("TRAIN.cross_loss_target=false", "TRAIN.weight_cross=0"),
)


class OnDevice(TorchDispatchMode):
    """Fails at operations between devices; lets ``reads`` be copied to the host, as zeros."""

    def __init__(self, reads: int = 0) -> None:
        super().__init__()
        self.reads = reads

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        found = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        devices = {value.device.type for value in found}
        to = torch.device(kwargs.get("device") or META)
        if "meta" in devices and to.type == "cpu":
            assert self.reads, f"{function}: copied to the host"
            self.reads -= 1
            return torch.zeros(found[0].shape, dtype=kwargs.get("dtype") or found[0].dtype)
        if function not in COPIES:
            assert len(devices) < 2, f"{function}: one of its tensors is on the host"
        return function(*args, **kwargs)


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's fused Adam computes shapes on the meta device, but a check refuses it there."""
    module = importlib.import_module("torch.optim.adam")
    monkeypatch.setattr(module, "_device_dtype_check_for_fused", lambda *_, **__: None)


def trainer_of(project: Project, *sets: str) -> Trainer:
    config = load_config(str(project.root / "tiny.yaml"), [*SETTINGS, *sets], CONFIG_DIR).config
    return Trainer(config, Workspace(project.root, project.root), "tiny", META)


@pytest.fixture
def log(on_meta: None, project: Project) -> Iterator[RunLog]:
    """The log of a run."""
    trainer = trainer_of(project)
    trainer.folder.create(trainer.config, overwrite=False, keep=False)
    log = RunLog(trainer.folder, trainer.config)
    yield log
    log.close()


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("sets", [(), SUPERVISED], ids=["adapting", "supervised"])
def test_iterations_between_two_logging_points(
    project: Project, log: RunLog, sets: tuple[str, ...]
) -> None:
    trainer = trainer_of(project, *sets)
    with OnDevice():
        batches = trainer.batches(log, StopSignal())
        for iteration, (active, batch) in enumerate(itertools.islice(batches, 3), start=1):
            report = active.step(iteration, *tensors(batch))
            log.add(iteration, report, trainer.learner.learning_rates)
            trainer.check_finite(log, iteration, report, active.pairs)
            trainer.show(log, iteration, batch)
            trainer.save_if_due(log, iteration)
    assert ("adv_target_seg" in report) == (not sets)


@pytest.mark.usefixtures("on_meta")
def test_prediction_reads_each_section_once(project: Project) -> None:
    trainer = trainer_of(project)
    network = NetworkPredictor(trainer.learner.networks["segmentor"], META)
    volume = trainer.target.images
    windows, pairs = (choose(trainer.config, volume) for choose in (choose_windows, choose_pairs))
    assert len(windows.corners) > 2
    for predictor in (network, FlippedPredictor(network)):
        with OnDevice(reads=len(volume)) as device:
            sections = list(predict_volume(predictor, Task(volume, pairs, windows, 2)))
        assert len(sections) == len(volume)
        assert device.reads == 0


@pytest.mark.usefixtures("on_meta")
def test_validation_reads_each_section_once(project: Project) -> None:
    trainer = trainer_of(project)
    network = NetworkPredictor(trainer.learner.networks["segmentor"], META)
    with OnDevice(reads=len(trainer.validation.volume)) as device:
        assert trainer.validation(network) == {"F1": 0}
    assert device.reads == 0
