"""What goes wrong while a run trains: one clear line each, and nothing lost."""

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dataloader.formats.opening import open_volume
from dataloader.pairs import PairDataset
from dataloader.volume import MaskVolume
from model.checkpoint import (
    AVERAGE,
    BEST,
    LAST,
    MODEL,
    PREVIOUS_STATE,
    TRAINING_STATE,
    load_checkpoint,
    load_file,
    load_state,
    save_whole,
)
from model.segmentor import PairLogits
from tests.helpers import Malicious
from tests.projects import SHAPE, Project
from tests.settings import config_of
from training.monitor import TargetMeasures, TargetMonitor, foreground
from training.nonfinite import MOST_SKIPPED, NonFiniteMonitor
from training.run_folder import RunFolder, RunLog
from training.setup import build_learning
from utils.config.load import load_config
from utils.errors import UserError
from utils.paths import CONFIG_DIR, Workspace


@pytest.fixture(scope="module")
def half_way(command, tmp_path_factory) -> Project:
    """A run of six iterations of which four are done, saved at two and at four; not to be changed.

    The fifth source pair has a broken pixel."""
    project = Project(command, tmp_path_factory.mktemp("half_way"))
    project.train("--set", "TRAIN.total_iters=4")
    return project


@pytest.fixture
def resumable(half_way: Project, project: Project) -> Project:
    for folder in ("models", "logs"):
        shutil.copytree(half_way.root / folder, project.root / folder)
    for path in half_way.root.glob("*.hdf"):
        shutil.copy2(path, project.root)  # with its time
    return project


RESUME = ("--resume", "--set", "TRAIN.total_iters=6")


def mounts() -> bool:
    """Whether this user may mount in a name space of its own."""
    trial = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(trial, capture_output=True).returncode
    )


needs_mounts = pytest.mark.skipif(not mounts(), reason="needs the right to mount (root on Linux)")


# Checkpoints


def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path, draw = tmp_path / "state.ckpt", np.random.default_rng(0)
    content = {"weights": torch.randn(200), "iteration": 7, "names": ["a", "b"]}
    save_whole(path, content)
    whole, noticed = path.read_bytes(), 0
    for bit in draw.integers(8 * len(whole), size=300):
        broken = bytearray(whole)
        broken[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(broken)
        try:
            found = load_file(path)
        except UserError as error:
            assert "\n" not in str(error)
            noticed += 1
        else:
            assert torch.equal(found.pop("weights"), content["weights"])
            assert found == {"iteration": 7, "names": ["a", "b"]}
    assert noticed > 100


def test_the_state_before_is_kept_and_read_where_the_newest_is_broken(tmp_path: Path) -> None:
    path = tmp_path / TRAINING_STATE
    for number in (1, 2, 3):
        save_whole(path, {"number": number}, previous=PREVIOUS_STATE)
    assert load_state(tmp_path) == ({"number": 3}, path, None)
    assert load_file(tmp_path / PREVIOUS_STATE) == {"number": 2}
    path.write_bytes(path.read_bytes()[:-30])
    content, found, warning = load_state(tmp_path)
    assert (content, found.name) == ({"number": 2}, PREVIOUS_STATE)
    assert "training_state.ckpt: not a readable checkpoint" in warning
    assert warning.endswith("going on from training_state.previous.ckpt")
    path.unlink()  # killed between the two renamings
    assert load_state(tmp_path)[0] == {"number": 2}
    (tmp_path / PREVIOUS_STATE).write_bytes(b"")
    with pytest.raises(UserError, match=r"training_state\.ckpt: no such checkpoint"):
        load_state(tmp_path)


def test_resume_falls_back_with_one_warning_and_ends_the_same(resumable: Project) -> None:
    whole = load_file(resumable.models / TRAINING_STATE)
    data = bytearray((resumable.models / TRAINING_STATE).read_bytes())
    data[len(data) // 2] ^= 1
    (resumable.models / TRAINING_STATE).write_bytes(data)
    (resumable.models / MODEL).write_bytes(b"broken too")
    output = resumable.train("--resume", "--set", "TRAIN.total_iters=4")
    assert output.count("warning: ") == 1
    assert "going on from training_state.previous.ckpt" in output
    again = load_file(resumable.models / TRAINING_STATE)
    assert again["iteration"] == 4
    for name, value in whole["networks"]["segmentor"].items():
        assert torch.equal(again["networks"]["segmentor"][name], value)
    assert load_checkpoint(resumable.models / LAST).iteration == 4


def test_files_beside_the_state_are_restored_from_it(resumable: Project) -> None:
    """As a kill between the writing of the last checkpoint and of the state leaves them."""
    expected = load_checkpoint(resumable.models / LAST)
    later = load_file(resumable.models / LAST) | {"current_iter": 5}
    for name in (LAST, "best_on_target_labels.ckpt", "model-000005.ckpt", "model-000002.ckpt"):
        torch.save(later, resumable.models / name)
    (resumable.root / "target.hdf").write_bytes(b"")
    resumable.fail(*RESUME)  # writes nothing
    assert load_checkpoint(resumable.models / LAST).iteration == 5
    (resumable.root / "target.hdf").unlink()
    (resumable.root / "target.hdf").symlink_to(resumable.root / "source.hdf")
    resumable.train(*RESUME, "--set", "TRAIN.save_freq=100", "--set", "TRAIN.total_iters=5")
    assert not (resumable.models / "best_on_target_labels.ckpt").exists()
    assert not (resumable.models / "model-000005.ckpt").exists()
    assert (resumable.models / "model-000002.ckpt").exists()
    assert expected.iteration == 4


def other_width() -> dict:
    return build_learning(config_of(4), torch.device("cpu")).learner.state_dict()


def with_nan(state: dict) -> dict:
    state["networks"]["disc_seg"]["0.bias"][0] = float("nan")
    return state


BROKEN_STATES = {
    "malicious": (lambda state, trace: state | {"score": Malicious(trace)}, "not a readable check"),
    "other width": (lambda state, _: state | other_width(), "not the state of such a run .*size"),
    "nan": (lambda state, _: with_nan(state), "weights that are not finite, such as 0.bias"),
    "no networks": (lambda state, _: {"iteration": 3}, "not the state of such a run"),
    "a list": (lambda state, _: [state], "not the state of such a run"),
    "weights a list": (lambda state, _: state | {"networks": [1]}, "not the state of such a run"),
    "iteration a text": (
        lambda state, _: state | {"iteration": "x"},
        "not the state of such a run",
    ),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_STATES.values(), ids=BROKEN_STATES)
def test_states_are_data_and_broken_ones_are_named(resumable, change, message) -> None:
    path, trace = resumable.models / TRAINING_STATE, resumable.root / "trace"
    (resumable.models / PREVIOUS_STATE).unlink()
    torch.save(change(load_file(path), trace), path)
    before = path.read_bytes()
    error = resumable.fail(*RESUME)
    assert "training_state.ckpt: " in error
    assert re.search(message, error), error
    assert not trace.exists()
    assert path.read_bytes() == before


BROKEN_MODELS = {
    "iteration": (
        {"current_iter": "many"},
        "no checkpoint; current_iter, ",
    ),
    "score": ({"valid_result": []}, "no checkpoint; current_iter, "),
    "weights": ({"model_weights": {"a": 1}}, "no checkpoint; expected a dict"),
    "keys": ({"model_weights": {1: torch.zeros(1)}}, "no checkpoint; expected a dict"),
    "malicious": (None, "not a readable checkpoint"),
}


@pytest.mark.parametrize(("change", "message"), BROKEN_MODELS.values(), ids=BROKEN_MODELS)
def test_broken_models_are_named_by_inference(resumable, change, message) -> None:
    path, trace = resumable.models / MODEL, resumable.root / "trace"
    change = {"valid_result": Malicious(trace)} if change is None else change
    torch.save(load_file(path) | change, path)
    values = ("--set", "DATA.data_dir_val=target.hdf")
    finished = resumable.command("inference", *resumable.arguments("-mn", "tiny", *values))
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert f"model.ckpt: {message}" in finished.err
    assert not trace.exists()


# Config on resuming


def test_another_run_is_not_resumed_in_this_ones_folder(resumable: Project) -> None:
    before = (resumable.models / TRAINING_STATE).read_bytes()
    error = resumable.fail(*RESUME, "--set", "TRAIN.batch_size=2", "--set", "TRAIN.random_seed=1")
    assert "TRAIN.batch_size: was 1, is 2; TRAIN.random_seed: was 555, is 1" in error
    assert "MODEL.width: was 2, is 4" in resumable.fail(*RESUME, "--set", "MODEL.width=4")
    sgd = ("--set", "TRAIN.opt_type=sgd")
    assert "TRAIN.opt_type: was adam, is sgd" in resumable.fail(*RESUME, *sgd)
    other = ("--run-name", "other", "--set", "TRAIN.model_name=tiny")
    assert "of another optimiser" in resumable.fail(*RESUME, *sgd, *other)
    assert (resumable.models / TRAINING_STATE).read_bytes() == before


def test_changes_of_the_schedule_are_warned_of_and_others_pass(resumable: Project) -> None:
    free = ("TRAIN.num_workers=1", "TRAIN.display_freq=1", "TRAIN.on_nan=skip", "TEST.tile_pad=64")
    more = [part for key in (*free, "TRAIN.weight_cross=0.2") for part in ("--set", key)]
    output = resumable.train(*RESUME, *more)
    assert output.count("warning: ") == 2
    assert "warning: TRAIN.total_iters: was 4, is 6; " in output
    assert "warning: TRAIN.weight_cross: was 0.1, is 0.2; " in output


@pytest.mark.parametrize("name", ["source", "source_groundtruth", "target"])
def test_volumes_that_have_changed_are_warned_of(resumable: Project, name: str) -> None:
    path = resumable.root / f"{name}.hdf"
    volume = open_volume(path, keep=False)
    sections = np.stack([volume.section(k) for k in range(SHAPE[0])])
    volume.close()
    resumable.write(path.name, sections[::-1])  # as many bytes
    key = {"source": "img", "source_groundtruth": "label", "target": "target"}[name]
    output = resumable.train(*RESUME)
    assert output.count("warning: ") == 2  # and TRAIN.total_iters
    assert f"warning: DATA.data_dir_{key}: its files have changed (names, sizes or " in output


def test_states_of_before_these_fields_resume(resumable: Project) -> None:
    path = resumable.models / TRAINING_STATE
    state = load_file(path)
    for key in ("config", "best", "nonfinite", "collapsed", "volumes"):
        del state[key]
    state["log"]["sums"].pop("skipped", None)
    state["log"] = {"sums": state["log"]["sums"], "count": 0}
    torch.save(state | {"best_score": None}, path)
    assert "warning: " not in resumable.train(*RESUME)


def test_states_with_options_that_are_gone_resume(resumable: Project) -> None:
    path = resumable.models / TRAINING_STATE
    state = load_file(path)
    weights = state["networks"]["segmentor"]
    best = {"weights": weights, "iteration": 3, "valid_result": 0.5, "chosen_by": "best"}
    state["best"] = best | {"pixel_size": None, "section_thickness": None}
    state |= {"guard": torch.zeros(2), "choice": {"cost": 0.5, "checkpoint": None}}
    state["config"]["BEYOND"] |= {"teacher": True, "paste": False, "complementary": "no"}
    state["config"]["TRAIN"]["choose_by"] = "entropy"
    torch.save(state, path)
    output = resumable.train(*RESUME)
    assert "warning: BEYOND.teacher: was True, is gone since the revision after 88888e3; " in output
    assert "warning: TRAIN.choose_by: was entropy, is average; " in output
    assert output.count("warning: ") == 3  # and TRAIN.total_iters
    assert load_checkpoint(resumable.models / BEST).iteration == 3
    torch.save(state | {"config": state["config"] | {"DATA": {"section_thickness": 50.0}}}, path)
    error = resumable.fail(*RESUME)
    assert "DATA.section_thickness: was 50.0, is gone since the revision after 88888e3" in error


@pytest.mark.parametrize(
    ("rule", "file", "said"),
    [("last", LAST, "last"), ("average", AVERAGE, "average of the weights over the last iter")],
)
def test_the_model_is_what_was_asked_for(project: Project, rule, file, said: str) -> None:
    output = project.train("--set", f"TRAIN.choose_by={rule}")
    model, chosen, other = (
        load_checkpoint(project.models / name)
        for name in (MODEL, file, AVERAGE if file == LAST else LAST)
    )
    assert model.chosen_by.startswith(said)
    assert f"model.ckpt ({model.chosen_by})\n" in output
    key = "section_full.conv1.weight"
    assert torch.equal(model.weights[key], chosen.weights[key])
    assert not torch.equal(model.weights[key], other.weights[key])


# One run at a time


def test_two_runs_never_write_to_one_folder(project: Project) -> None:
    with project.start("--set", "TRAIN.total_iters=100000") as process:
        assert any(line.startswith("step=4,") for line in process.stdout)  # saved at 2
        for option in ("--overwrite", "--resume"):
            error = project.fail(option, "--set", "TRAIN.total_iters=100000")
            assert f"logs/tiny: in use by another run (process {process.pid} on " in error
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (project.models / TRAINING_STATE).is_file()
    project.train("--overwrite")  # a killed process holds no lock


# The disc


def test_a_full_disc_ends_a_run_in_one_line(resumable: Project) -> None:
    """A limit on the size of files does to a process what a full disc does, one file at a time."""
    state = (resumable.models / TRAINING_STATE).read_bytes()
    limit = len(state) // 2
    with resumable.start(
        *RESUME, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    ) as process:
        _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.count("\n") == 1
    assert f"cannot be written ({os.strerror(errno.EFBIG)}); the checkpoint before it" in error
    assert (resumable.models / TRAINING_STATE).read_bytes() == state
    assert not list(resumable.models.glob("*.part"))
    resumable.train(*RESUME)


@needs_mounts
@pytest.mark.parametrize("room", [20, 200, 400])  # for logs only, for a checkpoint, for some
def test_no_room_on_the_disc(project: Project, room: int) -> None:
    """On a disc of some kilobytes; what was saved before is whole."""
    out = project.root / "small"
    out.mkdir()
    keep = f"; code=$?; cp -r {out} {project.root}/left; exit $code"
    before = f'mount -t tmpfs -o size={room}k none {out}; "$0" "$@" --out {out}{keep}'
    with project.start(before=before) as process:
        _, error = process.communicate()
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    assert os.strerror(errno.ENOSPC) in error
    for path in (project.root / "left").rglob("*.ckpt"):
        load_file(path)


@needs_mounts
def test_a_read_only_output_folder(project: Project) -> None:
    before = f"mount --bind {project.root} {project.root}; mount -o remount,ro,bind {project.root}"
    with project.start(before=before) as process:
        _, error = process.communicate()
    assert process.returncode == 2
    assert error.count("\n") == 1
    assert f"cannot be written ({os.strerror(errno.EROFS)})" in error


@pytest.mark.parametrize("name", ["logs", "logs/tiny", "models/tiny"])
def test_a_file_where_a_folder_is_due(project: Project, name: str) -> None:
    (project.root / name).parent.mkdir(exist_ok=True)
    (project.root / name).write_text("")
    assert "cannot be written" in project.fail()


# Processes that load


def test_a_worker_that_dies_is_named(project: Project) -> None:
    settings = ("TRAIN.num_workers=1", "TRAIN.total_iters=100000")
    with project.start(*(part for s in settings for part in ("--set", s))) as process:
        assert any(line.startswith("step=2,") for line in process.stdout)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        commands = {c: Path(f"/proc/{c}/cmdline").read_text() for c in children}
        worker = next(c for c, line in commands.items() if "main.py" in line)
        os.kill(int(worker), signal.SIGKILL)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    assert f"TRAIN.num_workers 1: a process that loads pairs died, (pid {worker})" in error


@needs_mounts
@pytest.mark.parametrize("room", ["8k", "100k"])  # not for the queues, not for the pairs
def test_shared_memory_that_is_too_small(project: Project, room: str) -> None:
    before = f"mount -t tmpfs -o size={room} none /dev/shm"
    settings = ("--set", "TRAIN.num_workers=1", "--set", "TRAIN.batch_size=16")
    with project.start(*settings, before=before) as process:
        _, error = process.communicate(timeout=60)
    assert process.returncode == 2, error
    assert error.count("\n") == 1, error
    assert "no room in shared memory (/dev/shm)" in error
    assert "TRAIN.num_workers=0" in error


# Numbers that are not finite


EXPLODING = ("--set", "TRAIN.learning_rate=1.0e+30")  # no number is left after the first step


def test_a_loss_that_is_not_finite_stops_the_run(project: Project) -> None:
    error = project.fail(*EXPLODING, "--set", "TRAIN.save_freq=1")
    assert "error: iteration 2: not finite: " in error
    assert "seg_source_current" in error
    assert "grad_norm_segmentor" in error
    assert re.search(r"source.hdf, sections \d \(000\d.png\) and \d ", error)
    assert "target.hdf, sections " in error
    assert "TRAIN.on_nan=skip" in error
    assert (project.logs / "nonfinite-2-source.png").is_file()
    with np.load(project.logs / "nonfinite-2.npz") as arrays:
        assert set(arrays) == {"source_images", "source_masks", "target_images"}
    assert load_checkpoint(project.models / LAST).iteration == 1


def test_skipped_iterations_change_nothing_but_the_count(project: Project) -> None:
    output = project.train(
        *EXPLODING, "--set", "TRAIN.on_nan=skip", "--set", "TRAIN.display_freq=6"
    )
    for iteration in range(2, 7):
        assert f"skipped at {iteration}: not finite: " in output
        assert f"({iteration - 1} so far)" in output
    assert "nan" not in (project.logs / "loss.txt").read_text()
    assert load_file(project.models / TRAINING_STATE)["nonfinite"]["skipped"] == 5


def test_a_term_s_mean_is_over_the_iterations_that_have_it(project: Project) -> None:
    config = load_config(str(project.root / "tiny.yaml"), ["TRAIN.display_freq=6"], CONFIG_DIR)
    folder = RunFolder(Workspace(project.root, project.root), config.config, "tiny")
    folder.create(config.config, overwrite=False, keep=False)
    log = RunLog(folder, config.config)
    source, target = "seg_source_current", "seg_target_current"
    reports = [
        {source: 1},
        {source: 2},
        {source: 3, "consistency_target": 0.1},  # a phase begins
        {source: 100, "consistency_target": 100, "skipped": 1},
        {target: 7, "consistency_target": 0.2},  # and another
        {target: 7, "consistency_target": 0.3},
    ]
    for iteration, report in enumerate(reports, start=1):
        report = {name: torch.tensor(value) for name, value in ({"skipped": 0} | report).items()}
        log.add(iteration, report, {"segmentor": 1e-4})
        if iteration == 2:  # as a resumed run goes on
            state = log.state_dict()
            log.close()
            log = RunLog(folder, config.config, 2)
            log.load_state_dict(state)
    log.close()
    folder.release()
    assert "loss_cpred=4.000000" in (folder.logs / "loss.txt").read_text()
    assert "loss_cross=0.200000" in (folder.logs / "loss_adv.txt").read_text()
    scalars = EventAccumulator(str(folder.logs)).Reload().Scalars
    assert scalars("terms/seg_target_current")[0].value == 7
    assert scalars("terms/skipped")[0].value == 1


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("where", ["source", "target"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_skipped_leaves_everything_as_it_was(
    where: str, value: float, optimiser: str
) -> None:
    torch.manual_seed(0)
    settings = config_of(total_iters=10, opt_type=optimiser)
    made = build_learning(settings, torch.device("cpu"))
    step, learner = made.steps.adapt, made.learner
    source, target = torch.rand(1, 2, 32, 32), torch.rand(1, 2, 32, 32)
    masks = torch.randint(0, 2, (1, 2, 32, 32))
    assert step(1, source, masks, target)["skipped"] == 0
    before = plain(learner.state_dict())
    (source if where == "source" else target)[0, 0, 3, 3] = value
    report = step(2, source, masks, target)
    assert report["skipped"] == 1
    assert plain(learner.state_dict()) == before
    target = source = torch.rand(1, 2, 32, 32)
    assert step(2, source, masks, target)["skipped"] == 0
    assert plain(learner.state_dict()) != before


def plain(value: object) -> object:
    """Tensors as lists; learning rates, which follow the iteration, left out."""
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items() if key != "lr"}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_too_many_skips_in_a_row_stop(project: Project) -> None:
    dataset = PairDataset(open_volume(project.root / "source.hdf"), None, 1, 32, (1, 0), 200)
    pairs = {"source": dataset}
    watch, lines = NonFiniteMonitor("skip", 1, None), []
    bad = {"loss": torch.tensor(float("nan")), "skipped": torch.tensor(1.0)}
    good = {"loss": torch.tensor(1.0), "skipped": torch.tensor(0.0)}
    for iteration in range(1, MOST_SKIPPED):
        watch.add(iteration, bad, pairs)
    watch.settle(lines.append)
    other = NonFiniteMonitor("skip", 1, None)
    other.load_state_dict(watch.state_dict())  # a resumed run goes on counting
    watch.add(MOST_SKIPPED, good, pairs)
    watch.add(MOST_SKIPPED + 1, bad, pairs)
    watch.settle(lines.append)
    assert len(lines) == MOST_SKIPPED
    other.add(MOST_SKIPPED, bad, pairs)
    with pytest.raises(UserError, match=f"{MOST_SKIPPED} iterations in a row were skipped"):
        other.settle(lines.append)


def test_a_description_leads_to_the_pixels(project: Project) -> None:
    volume = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    project.write("source.hdf", volume)
    dataset = PairDataset(open_volume(project.root / "source.hdf"), None, 2, 32, (1, 0), 20)
    found = 0
    for number in range(20):
        text = dataset.describe(number)
        current, auxiliary, y, last_y, x, last_x = map(
            int,
            re.search(
                r"sections (\d+) \(.*?\) and (\d+) \(.*?\), rows (\d+) to (\d+), "
                r"columns (\d+) to (\d+)",
                text,
            ).groups(),
        )
        assert auxiliary == current + 2
        if text.endswith("augmented"):
            continue
        for section, image in zip((current, auxiliary), dataset[number]["images"], strict=True):
            whole = volume[section]
            scaled = (whole - whole.min()) / (whole.max() - whole.min())
            cut = scaled[y : last_y + 1, x : last_x + 1]
            np.testing.assert_allclose(image, cut, atol=1e-6)
        found += 1
    assert found > 5


# The target without labels


def logits_of(current: torch.Tensor, auxiliary: torch.Tensor, residual: torch.Tensor) -> PairLogits:
    return PairLogits(*(torch.stack([-m, m], 1) for m in (current, auxiliary, residual)))


def test_measures_of_the_target(project: Project) -> None:
    target = PairDataset(open_volume(project.root / "target.hdf"), None, 1, 32, (1, 1), 9)
    labels = MaskVolume(open_volume(project.root / "source_groundtruth.hdf"))
    watch = TargetMonitor(target, labels, 10)
    draw = np.random.default_rng(0)
    maps = draw.normal(size=(8, 3, 32, 32)).astype(np.float32)
    seen = []

    def segment(pair: torch.Tensor) -> PairLogits:
        seen.append(pair)
        return logits_of(*(torch.from_numpy(m)[None] for m in maps[len(seen) - 1]))

    found = watch.measure(segment, torch.device("cpu"))
    masks, residual = maps[:, :2] > 0, maps[:, 2] > 0
    p = 1 / (1 + np.exp(-2 * maps[:, :2].astype(np.float64)))
    entropy = -(p * np.log2(p) + (1 - p) * np.log2(1 - p))
    agreement = (masks[:, 0] == (masks[:, 1] ^ residual)).mean()
    assert found == pytest.approx((masks.mean(), entropy.mean(), agreement), rel=1e-5)
    again = len(seen)
    watch.measure(lambda pair: seen.append(pair) or logits_of(*maps_like(pair)), seen[0].device)
    assert all(torch.equal(a, b) for a, b in zip(seen[:again], seen[again:], strict=True))
    with h5py.File(project.root / "source_groundtruth.hdf") as file:
        expected = (file["main"][:] > 0).mean()
    assert foreground(labels) == pytest.approx(expected, rel=1e-6)


def maps_like(pair: torch.Tensor) -> list[torch.Tensor]:
    return [torch.zeros(1, 32, 32)] * 3


@pytest.mark.parametrize(
    ("fraction", "warns"),
    [
        (0.0, "nearly nothing"),
        (0.009, "nearly nothing"),
        (0.011, None),
        (0.49, None),
        (0.51, "nearly everywhere"),
        (1.0, "nearly everywhere"),
    ],
)
def test_a_collapse_is_warned_of_once(project: Project, fraction: float, warns) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :10, :24] = 255
    labels[:, 0, 0] = 255  # 240 of 2304 pixels
    project.write("tenth.hdf", labels)
    target = PairDataset(open_volume(project.root / "target.hdf"), None, 1, 32, (1, 1), 9)
    watch = TargetMonitor(target, MaskVolume(open_volume(project.root / "tenth.hdf")), 100)
    watch.source_foreground = 0.1
    measures = TargetMeasures(fraction, 0.0, 1.0)
    assert watch.check(1, measures) is None  # too early to tell
    assert watch.check(4, measures) is None
    warning = watch.check(5, measures)
    if warns is None:
        assert warning is None
        return
    assert warns in warning
    assert watch.check(6, measures) is None
    assert watch.check(7, TargetMeasures(0.1, 0, 1)) is None
    assert watch.check(8, measures) == warning  # the next onset


def test_the_target_is_looked_at_without_labels_and_logged(half_way: Project) -> None:
    lines = (half_way.logs / "target.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["model-1", "model-3", "model-4"]
    assert all(re.search("foreground=0.*entropy=0.*agreement=", line) for line in lines)
    assert not (half_way.logs / "valid.txt").exists()
