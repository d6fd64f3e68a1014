"""Studies: lists of runs that are trained once, resumed, scored and put into a table."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.scripts.sound_input import CONFIG, Input
from training.study.spec import STUDIES, list_runs, load_study
from training.study.table import StudyTable, gather
from utils.errors import UserError
from utils.paths import ROOT, Workspace

SHIPPED = sorted(STUDIES.glob("*.yaml"))


@pytest.fixture
def study(command, tmp_path: Path) -> Input:
    project = Input(tmp_path, command)
    labelled = {"data_dir_val": "source", "data_dir_val_label": "labels"}
    config = CONFIG | {"DATA": CONFIG["DATA"] | labelled}
    config["TRAIN"] = config["TRAIN"] | {"if_valid": False}
    project.write(config)
    content = {
        "title": "A trial",
        "config": str(project.config),
        "seeds": [1, 2],
        "checkpoints": ["last.ckpt", "model.ckpt"],
        "rows": [
            {"name": "published", "worst": True},
            {"name": "No consistency!", "set": ["TRAIN.weight_cross=0"]},
        ],
    }
    (tmp_path / "trial.yaml").write_text(yaml.safe_dump(content))
    return project


def arguments(study: Input) -> list[object]:
    return [
        "-c", study.root / "trial.yaml", "--data", study.data, "--out", study.out,
        "--results", study.root / "results", "--jobs", "2",
    ]  # fmt: skip


def run(study: Input, *more: object):
    return study.command("study", *arguments(study), *more)


def test_a_study_is_done_once_and_tabled(study: Input) -> None:
    finished = run(study)
    assert finished.code == 0, finished.err
    assert finished.out.count(": training\n") == 4
    models = study.out / "models"
    names = {f"trial-{row}-{seed}" for row in ("published", "no_consistency") for seed in (1, 2)}
    assert {path.name for path in models.iterdir()} == names
    with (study.root / "results/trial.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    for row in rows:
        slug = "published" if row["row"] == "published" else "no_consistency"
        name = f"trial-{slug}-{row['seed']}/scores-{Path(row['checkpoint']).stem}.json"
        summary = json.loads((study.out / "logs" / name).read_text())
        assert str(study.root) not in json.dumps(summary)
        assert summary["volume"]["path"] == "source"
        assert float(row["F1"]) == pytest.approx(summary["scores"]["F1"], abs=1e-4)
        assert ("average" in summary["chosen_by"]) == (row["checkpoint"] == "model.ckpt")
    text = (study.root / "results/trial.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| No consistency! | last |"))
    values = [float(row["F1"]) for row in rows if row["row"] != "published"][:2]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert f" {100 * mean:.1f} ± {100 * spread:.1f} |" in line
    logs = (study.out / "logs").glob("trial-no_consistency-*/scores-last.json")
    bounds = [json.loads(path.read_text())["upper_bound"]["F1"] for path in logs]
    assert line.rsplit("|", 2)[1].split()[0] == f"{100 * sum(bounds) / 2:.1f}"
    assert "--set TRAIN.weight_cross=0" in text
    assert (study.root / "results/trial.png").is_file()
    assert not any((study.out / "inference").iterdir())  # probabilities are not kept
    together = (study.root / "results.md").read_text()
    assert together.startswith("# Results\n")
    assert "\n## A trial\n" in together
    assert line in together
    assert "![F1 of every seed](results/trial.png)" in together
    assert "![F1 of every seed](trial.png)" in text
    assert_worst_drawn(study, text)

    # one score lost, one run not even trained
    (study.out / "logs/trial-published-1/scores-last.json").unlink()
    (study.out / "logs/trial-no_consistency-2/scores-model.json").unlink()
    (models / "trial-no_consistency-2/done").unlink()
    # logs alone, as they are handed on: what they hold scores of is done
    shutil.rmtree(models / "trial-published-2")
    again = run(study)
    assert again.code == 0, again.err
    assert again.out.count("mAP=") == 2
    assert (study.root / "results/trial.md").read_text() == text


def assert_worst_drawn(study: Input, text: str) -> None:
    """The worst section of the first seed of ``published`` is in one picture."""
    logs = study.out / "logs"
    assert {path.parent.name for path in logs.glob("*/worst-*.jpg")} == {"trial-published-1"}
    assert "![Labels and predictions](trial_worst.jpg)" in text
    picture = cv2.imread(str(study.root / "results/trial_worst.jpg")).astype(int)
    blue, _, red = picture[44:].transpose(2, 0, 1)
    assert (red > blue + 100).any(), "no labels"
    worst = json.loads((logs / "trial-published-1/scores-model.json").read_text())
    assert worst["worst"]["F1"] <= worst["scores"]["F1"]


def test_a_stopped_study_scores_nothing_unfinished(study: Input) -> None:
    study.set("TRAIN.total_iters", 10**6)
    command = [sys.executable, ROOT / "scripts/study.py", *arguments(study)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        logs = [study.out / f"logs/trial-{row}-1" for row in ("published", "no_consistency")]
        while not all((log / "loss.txt").exists() for log in logs):
            assert process.poll() is None, process.stderr.read()
        process.terminate()
        assert "stopped; everything is saved" in process.communicate()[1]
    assert process.returncode == 2
    assert not list(study.out.rglob("scores-*.json"))
    assert len(list(study.out.rglob("training_state.ckpt"))) == 2


def test_a_row_of_another_predicts_with_its_networks(study: Input) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    content |= {"seeds": [1], "checkpoints": ["model.ckpt"]}
    labelled = "DATA.data_dir_val_label=labelled"
    content["rows"] = [
        {"name": "flips", "of": "published", "set": ["TEST.flips=true", labelled]},
        {"name": "published", "set": [labelled], "worst": True},
        {"name": "early", "of": "published", "checkpoint": "last.ckpt"},
    ]
    name = sorted((study.data / "labels").iterdir())[-1].name  # one labelled section
    (study.data / "labelled").mkdir()
    shutil.copy(study.data / "labels" / name, study.data / "labelled")
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content))
    finished = run(study, "--rows", "flips")
    assert finished.code == 2
    assert (
        "trial-flips-1: needs the network of trial-published-1, which is not trained"
        in finished.err
    )
    finished = run(study, "--rows", "published")
    assert finished.code == 0, finished.err
    assert "flips" not in finished.out
    worst = json.loads((study.out / "logs/trial-published-1/scores-model.json").read_text())
    assert worst["worst"]["section"] == name
    finished = run(study)
    assert finished.code == 0, finished.err
    assert [path.name for path in (study.out / "models").iterdir()] == ["trial-published-1"]
    with (study.root / "results/trial.csv").open() as file:
        flips, plain, early = csv.DictReader(file)
    assert [row["checkpoint"] for row in (plain, early)] == ["model.ckpt", "last.ckpt"]
    assert flips["mAP"] != plain["mAP"]
    text = (study.root / "results/trial.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("python scripts/")]
    assert [line.split(" -c ")[0].removeprefix("python scripts/") for line in commands] == [
        "main.py --run-name trial-published-1",
        "inference.py -mn trial-published-1",
        "inference.py -mn trial-published-1 --checkpoint last.ckpt",
    ]
    assert all(line.count("DATA.data_dir_val_label") == 1 for line in commands)


def test_some_sections_of_a_prediction_alone_are_scored(study: Input) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    content |= {"seeds": [1], "checkpoints": ["model.ckpt"]}
    names = [path.name for path in sorted((study.data / "source").iterdir())]
    rows = [{"name": "published"}]
    for part, some in (("first", names[:1]), ("rest", names[1:])):
        (study.root / part).write_text("\n".join(some))
        rows.append({"name": part, "of": "published", "sections": str(study.root / part)})
    content["rows"] = rows
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content))
    finished = run(study)
    assert finished.code == 0, finished.err
    with (study.root / "results/trial.csv").open() as file:
        whole, first, rest = (
            [float(row[s]) for s in ("mAP", "IoU")] for row in csv.DictReader(file)
        )
    parts = (np.array(first) + (len(names) - 1) * np.array(rest)) / len(names)
    assert parts == pytest.approx(whole, abs=1e-4)
    assert first != whole
    assert f"{len(names) - 1} sections" in (study.root / "results/trial.md").read_text()
    (study.root / "rest").unlink()
    finished = run(study)
    assert finished.code == 2
    assert "rest: sections: found" in finished.err


def test_some_rows_and_seeds_alone_are_done(study: Input) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    content["rows"][0]["seeds"] = [2]
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content))
    finished = run(study, "--rows", "published")
    assert finished.code == 0, finished.err
    assert [path.name for path in (study.out / "models").iterdir()] == ["trial-published-2"]
    finished = run(study, "--rows", "publisht")
    assert finished.code == 2
    assert "--rows publisht: expected some of" in finished.err


def test_a_table_of_what_is_done(study: Input) -> None:
    finished = run(study, "--table")
    assert finished.code == 0
    assert "0 of 4 rows are finished" in (study.root / "results/trial.md").read_text()


def test_a_run_that_fails_is_named_and_the_others_are_done(study: Input) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    content["rows"][1]["set"] = ["DATA.source_stride=40"]
    content["seeds"] = [1]
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content))
    finished = run(study)
    assert finished.code == 2
    assert "error: trial-no_consistency-1: training ended with code 2; see " in finished.err
    log = study.out / "studies/trial/trial-no_consistency-1.log"
    assert "stride of 40" in log.read_text()
    assert "2 of 4 rows are finished" in (study.root / "results/trial.md").read_text()


STAND_IN = """#!/bin/sh
# Stands for Python: notes which GPU a run has got; the first goes on until the last has begun.
case "$*" in
*trial-a-1*) echo "a $CUDA_VISIBLE_DEVICES" >> gpus; read line < last_began ;;
*trial-b-1*) echo "b $CUDA_VISIBLE_DEVICES" >> gpus ;;
*trial-c-1*) echo "c $CUDA_VISIBLE_DEVICES" >> gpus; echo > last_began ;;
esac
exit 3
"""


@pytest.mark.parametrize(
    ("visible", "names"), [(None, {"0", "1"}), ("5,GPU-7a,2", {"5", "GPU-7a"})]
)
def test_a_run_gets_a_gpu_that_is_free(
    study: Input, monkeypatch, visible: str | None, names: set[str]
) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    content |= {"seeds": [1], "rows": [{"name": name} for name in "abc"]}
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content))
    stand_in = study.root / "python"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    os.mkfifo(study.root / "last_began")
    with monkeypatch.context() as patch:
        patch.chdir(study.root)
        patch.setattr(sys, "executable", str(stand_in))
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 2)
        patch.delenv("CUDA_VISIBLE_DEVICES")
        if visible:
            patch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert run(study).code == 2  # the stand-in trains nothing
    gpus = dict(line.split() for line in (study.root / "gpus").read_text().splitlines())
    assert {gpus["a"], gpus["b"]} == names
    assert gpus["c"] == gpus["b"]  # a still has the other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "trial.yaml: seeds: "),
        ({"rows": [{"name": "a"}, {"name": "A"}]}, "two rows are called"),
        ({"rows": [{"name": "a", "set": ["TRAIN.iters=3"]}]}, "TRAIN.iters: unknown key"),
        ({"rows": [{"name": "a", "of": "b"}]}, "trial: a: of: found 'b', expected one of "),
        (
            {"rows": [{"name": "a", "seeds": [3]}]},
            "trial: a: seeds: found (3,), expected some of 1, 2",
        ),
        ({"colour": "blue"}, "trial.yaml: colour: "),
    ],
)
def test_mistakes_in_a_study_are_named(study: Input, change: dict, message: str) -> None:
    content = yaml.safe_load((study.root / "trial.yaml").read_text())
    (study.root / "trial.yaml").write_text(yaml.safe_dump(content | change))
    finished = run(study)
    assert finished.code == 2
    assert finished.err.count("\n") == 1
    assert message in finished.err
    assert not list(study.out.iterdir())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_studies_are_sound(path: Path) -> None:
    study, name = load_study(f"studies/{path.stem}")
    wanted = sum(len(row.seeds or study.seeds) for row in study.rows)
    assert len({run.name for run in list_runs(study, name)}) == wanted


def test_the_documents_results_are_those_gathered(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "docs/results", tmp_path / "results")
    text = gather(tmp_path / "results").read_text(encoding="utf-8")
    assert text == (ROOT / "docs/results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["ablation_small", "fafb_small", "pairs_small", "plus_small"])
def test_the_documents_tables_are_those_of_the_logs(tmp_path: Path, name: str) -> None:
    study, _ = load_study(name)
    table = StudyTable(study, name, list_runs(study, name), Workspace(out=ROOT))
    table.write(tmp_path / "results")
    for suffix in (".md", ".csv"):
        written = (tmp_path / f"results/{name}{suffix}").read_text(encoding="utf-8")
        assert written == (ROOT / f"docs/results/{name}{suffix}").read_text(encoding="utf-8")


def test_each_row_is_trained_for_each_of_its_pairs(study: Input) -> None:
    path = study.root / "trial.yaml"
    content = yaml.safe_load(path.read_text())
    content |= {
        "seeds": [1],
        "pairs": {"A to B": ["DATA.source_stride=1"], "C to B": ["DATA.source_stride=2"]},
    }
    content["rows"] = [
        {"name": "published", "set": ["TRAIN.weight_cross=0"]},
        {"name": "flipped", "of": "published", "pairs": ["C to B"], "set": ["TEST.flips=true"]},
    ]
    path.write_text(yaml.safe_dump(content))
    runs = list_runs(*load_study(str(path)))
    assert [run.row.name for run in runs] == [
        "A to B, published",
        "C to B, published",
        "C to B, flipped",
    ]
    assert runs[0].name == "trial-a_to_b_published-1"
    assert runs[0].overrides[:2] == ["DATA.source_stride=1", "TRAIN.weight_cross=0"]
    assert runs[2].model == runs[1].name
    assert runs[2].overrides[:2] == ["DATA.source_stride=2", "TRAIN.weight_cross=0"]
    content["rows"][1]["pairs"] = ["B to A"]
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="flipped: pairs: found 'B to A', expected A to B, C to B"):
        load_study(str(path))
