"""Several processes at one run, started by torchrun, against one alone."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from model.checkpoint import LAST, TRAINING_STATE, load_checkpoint, load_file
from tests.killing import Kill, run
from tests.plain_inference import CUBES, SLICES, options
from tests.projects import Project
from utils.paths import ROOT
from utils.runtime.distributed import Group

BATCH = ("--set", "TRAIN.batch_size=2", "--set", "TRAIN.save_freq=3")


def torchrun(processes: int, script: str | Path, *arguments: str) -> subprocess.Popen:
    """Start a command of ``scripts/`` by its name, or a file by its path."""
    file = script if isinstance(script, Path) else ROOT / f"scripts/{script}.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.Popen(
        [*command, f"--nproc_per_node={processes}", str(file), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )


def finished(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def project(command, tmp_path: Path) -> Project:
    return Project(command, tmp_path)


def test_items_are_shared_evenly() -> None:
    for count in (0, 1, 5, 12):
        for size in (1, 2, 5):
            parts = [Group(rank, size).share(range(count)) for rank in range(size)]
            assert [n for part in parts for n in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_all_processes_take_the_number_of_the_first(tmp_path: Path) -> None:
    assert Group().agree(7) == 7
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "from utils.runtime.distributed import Group\n"
        "group = Group.join()\n"
        "number = group.agree(2**32 - 1 - group.rank)\n"
        "Path(__file__).with_name(f'{group.rank}.txt').write_text(str(number))\n"
        "group.leave()\n"
    )
    finished(torchrun(2, script))
    numbers = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert numbers == [str(2**32 - 1)] * 2


def losses(project: Project) -> np.ndarray:
    text = "".join((project.logs / name).read_text() for name in ("loss.txt", "loss_adv.txt"))
    return np.array([float(value) for value in re.findall(r"=([0-9.]+)", text)])


def test_two_processes_train_as_one_and_resume_as_one(project: Project) -> None:
    project.train(*BATCH)
    alone = losses(project)
    out = finished(torchrun(2, "main", *project.arguments(*BATCH, "--overwrite")))
    assert out.count("Done") == 1  # the first process alone speaks
    np.testing.assert_allclose(losses(project), alone, rtol=1e-3, atol=2e-5)

    # three iterations by two processes, the others by one
    half = (*BATCH, "--set", "TRAIN.display_freq=1")
    with torchrun(2, "main", *project.arguments(*half, "--overwrite")) as process:
        assert any(line.startswith("step=3,") for line in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    at = load_file(project.models / TRAINING_STATE)["iteration"]
    assert 3 <= at <= 6
    if at < 6:
        project.train("--resume", *half)
    assert load_checkpoint(project.models / LAST).iteration == 6


def test_two_processes_learn_from_slices_as_one(project: Project) -> None:
    rounds = ("BEYOND.rounds=2", "BEYOND.warmup_fraction=0.34", "BEYOND.orthoplane=true", *CUBES)
    alone = ("TRAIN.weight_adv_spatial=0", "TRAIN.weight_adv_temporal=0")
    full = ("TRAIN.weight_cross=1", "TRAIN.consistency_weight_rampup=false")
    windows = ("TEST.windows=section", "TEST.padded_size=[96,96]")
    arguments = (*BATCH, *options((*rounds, *alone, *full, *windows)))
    project.train(*arguments)
    found = losses(project)
    out = finished(torchrun(2, "main", *project.arguments(*arguments, "--overwrite")))
    assert out.count("target labelled after") == 2
    np.testing.assert_allclose(losses(project), found, rtol=1e-3, atol=2e-5)


def test_a_batch_that_cannot_be_split_is_refused(project: Project) -> None:
    process = torchrun(2, "main", *project.arguments())
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "error: TRAIN.batch_size: found 1, expected a multiple of the 2 processes" in error
    assert not project.logs.exists()


def test_a_process_that_dies_ends_the_others_in_one_line(project: Project) -> None:
    settings = (*BATCH, "--set", "TRAIN.total_iters=100000")
    with torchrun(2, "main", *project.arguments(*settings)) as process:
        assert any(line.startswith("step=4,") for line in process.stdout)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        second = max(map(int, children))
        os.kill(second, signal.SIGKILL)
        _, error = process.communicate(timeout=300)
    assert process.returncode != 0
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) <= 1
    assert all("another process of the run has ended" in line for line in lines)
    assert load_checkpoint(project.models / LAST).iteration >= 3


UUID = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # that OME-TIFF is given
PREDICTION = (
    *("--set", "DATA.data_dir_val=target.hdf", "-mn", "tiny", "--format", "tiff", "--instances"),
)


def predicted_alone(project: Project, arguments: list[str]) -> Path:
    """What one process leaves."""
    one = subprocess.run(
        [sys.executable, str(ROOT / "scripts/inference.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},  # as torchrun has it
        check=True,
        capture_output=True,
    )
    assert b"Done" in one.stdout
    return (project.root / "inference/tiny").rename(project.root / "alone")


@pytest.mark.parametrize("sets", [(), SLICES], ids=["sections", "slices"])
def test_two_processes_predict_as_one_byte_for_byte(
    project: Project, sets: tuple[str, ...]
) -> None:
    project.train()
    arguments = project.arguments(*PREDICTION, *options(sets))
    alone = predicted_alone(project, arguments)
    assert finished(torchrun(2, "inference", *arguments)).count("Done") == 1
    names = {path.name for path in alone.iterdir()}
    assert {"preds.hdf", "masks.ome.tif", "probability.ome.tif", "scores.csv"} <= names
    assert {"objects.csv", "instances.ome.tif"} <= names
    same(project.root / "inference/tiny", alone)


def test_two_processes_make_good_what_one_that_died_has_left(project: Project) -> None:
    project.train()
    arguments = project.arguments(*PREDICTION)
    alone = predicted_alone(project, arguments)
    arguments += ["--set", f"TRAIN.save_path={project.models.parent}"]
    for number in range(36, 80):  # openings of files, until one comes after the first section
        killed = project.root / f"killed{number}"
        killed.mkdir()
        where = [*arguments, "--out", str(killed)]
        assert run("inference", where, killed, Kill("file", number)) == -9
        if (killed / "inference/tiny/preds.hdf.part/0.npy").is_file():
            break
    out = finished(torchrun(2, "inference", *where))
    assert "sections are predicted already" in out
    same(killed / "inference/tiny", alone)
    out = finished(torchrun(2, "inference", *where))
    assert (out.count("not predicted again"), out.count("Done")) == (1, 1)
    same(killed / "inference/tiny", alone)


def same(folder: Path, alone: Path) -> None:
    """Demand the same files."""
    names = {path.name for path in alone.iterdir()}
    assert {path.name for path in folder.iterdir()} == names
    for name in names - {"summary.json", ".lock"}:
        one, two = (UUID.sub(b"", (place / name).read_bytes()) for place in (alone, folder))
        assert one == two, name


OBJECTS = """
import sys
from pathlib import Path

import numpy as np

from prediction.instances.segmentation import Instances, InstanceSettings
from utils.runtime.distributed import Group

folder = Path(__file__).parent
probability = np.load(folder / "probability.npy")
settings = InstanceSettings(neck=0.5, min_voxels=20, slab_runs=300)
group = Group.join()
instances = Instances(
    probability.__getitem__, probability.shape, None, settings, folder, group=group
)
with instances:
    if group.is_main:
        found = np.stack([section for _, section in instances.sections()])
        table = np.array(instances.table)
        np.savez(folder / f"{sys.argv[1]}.npz", found=found, table=table, notes=instances.notes)
group.leave()
"""


def test_two_processes_find_the_objects_of_one(tmp_path: Path) -> None:
    noise = gaussian_filter(np.random.default_rng(0).random((11, 90, 90)), 2.5)
    np.save(tmp_path / "probability.npy", (0.5 + noise - np.median(noise)).astype(np.float32))
    script = tmp_path / "script.py"
    script.write_text(OBJECTS)
    for processes in (1, 2):
        finished(torchrun(processes, script, str(processes)))
    one, two = (dict(np.load(tmp_path / f"{n}.npz")) for n in (1, 2))
    assert one["found"].max() > 10
    assert re.search(r"components parted: [1-9]", str(one["notes"]))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    assert not list(tmp_path.glob(".instances-*"))
