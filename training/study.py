"""Studies: lists of runs over seeds, done side by side, gone on with, and put into one table."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError

from model.checkpoint import (
    AVERAGE,
    CHOSEN_AVERAGE,
    CHOSEN_BY,
    LAST,
    MODEL,
    PREVIOUS_STATE,
    TRAINING_STATE,
    load_state,
)
from prediction.measures import MEASURES
from prediction.outputs import SECTIONS, SUMMARY
from utils.config.load import load_config
from utils.config.schema import Settings
from utils.config.yaml_text import read_yaml
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace, shown
from utils.runtime.gpus import GpuPool

STUDIES = CONFIG_DIR / "studies"
SCORES = ("mAP", "F1", "MCC", "IoU")
KEPT = (
    "scores",
    "iteration",
    "chosen_by",
    "notes",
    "pairs",
    "seconds",
    "device",
    "precision",
    "torch",
    "revision",
    "date",
)  # of a prediction's summary
NAMES = {LAST: "last weights", AVERAGE: CHOSEN_AVERAGE, MODEL: "model.ckpt"}  # in the figure
COLOURS = ("#c77", "#247", "#7a5", "#a7c")
RULES = {chosen: rule for rule, chosen in CHOSEN_BY.items()}  # by what a checkpoint says of itself
SCRIPTS = ROOT / "scripts"


class Row(Settings):
    """One line of a study's table."""

    name: str  # what it says in the table
    set: tuple[str, ...] = ()  # overrides, SECTION.key=value
    config: str | None = None  # another than the study's
    of: str | None = None  # another row, whose networks are predicted with once more, otherwise
    sections: str | None = None  # a list in config/, of the names of sections: all are predicted,
    # these alone are scored
    seeds: tuple[int, ...] | None = None  # of these alone


class Study(Settings):
    """A study's YAML file."""

    title: str
    about: str = ""  # a paragraph over the table
    found: str = ""  # a paragraph under it: what it says
    config: str  # of config/, or a path
    seeds: Annotated[list[int], Field(min_length=1)]
    set: tuple[str, ...] = ()  # overrides of all runs
    checkpoints: Annotated[tuple[str, ...], Field(min_length=1)] = (MODEL,)  # each is scored
    rows: Annotated[list[Row], Field(min_length=1)]


class Run(NamedTuple):
    """One training, and the scores of its checkpoints.

    ``model`` is the run that trains the network: another's, in a row ``of`` another.
    """

    row: Row
    seed: int
    name: str
    model: str
    config: str
    overrides: list[str]

    def command(self, script: str, workspace: Workspace, *more: str) -> list[str]:
        """The command line of a script for this run."""
        sets = [part for override in self.overrides for part in ("--set", override)]
        places = ["--data", str(workspace.data), "--out", str(workspace.out)]
        return [
            sys.executable,
            str(SCRIPTS / f"{script}.py"),
            "-c",
            self.config,
            *places,
            *sets,
            *more,
        ]


def load_study(name: str) -> tuple[Study, str]:
    """A study by its name, as ``studies/ablation`` or ``ablation``, or by the path of its file.

    Raises:
        UserError: no such file, or what is in it is no study.
    """
    candidates = [Path(name), CONFIG_DIR / f"{name}.yaml", STUDIES / f"{name}.yaml"]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        known = ", ".join(sorted(file.stem for file in STUDIES.glob("*.yaml")))
        raise UserError(
            f"-c {name}: no such study; expected the path of a YAML file or one of {known}"
        )
    try:
        return Study.model_validate(read_yaml(path.read_text(encoding="utf-8"))), path.stem
    except (OSError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise UserError(f"{path}: {text}") from None


def runs_of(study: Study, name: str) -> list[Run]:
    """All runs, those of the first seed first; raises UserError where a config does not hold."""
    runs = []
    trained = {row.name: row for row in study.rows if not row.of}
    for row in study.rows:
        if row.of and row.of not in trained:
            known = ", ".join(trained)
            raise UserError(f"{name}: {row.name}: of: found {row.of!r}, expected one of {known}")
        if row.sections and not (CONFIG_DIR / row.sections).is_file():
            raise UserError(
                f"{name}: {row.name}: sections: found {row.sections!r}, expected a list in config/"
            )
        if not set(row.seeds or study.seeds) <= set(study.seeds):
            known = ", ".join(map(str, study.seeds))
            raise UserError(
                f"{name}: {row.name}: seeds: found {row.seeds}, expected some of {known}"
            )
    for seed in study.seeds:
        for row in study.rows:
            if seed not in (row.seeds or study.seeds):
                continue
            base = trained[row.of] if row.of else row
            sets = [*base.set, *row.set] if row.of else row.set
            overrides = [*study.set, *sets, f"TRAIN.random_seed={seed}"]
            config = base.config or study.config
            load_config(config, overrides, CONFIG_DIR)
            names = [f"{name}-{_slug(r.name)}-{seed}" for r in (row, base)]
            runs.append(Run(row, seed, *names, config, overrides))
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            raise UserError(f"{name}: two rows are called {run.row.name!r}")
    return runs


def _rows_of(table: Path, names: Path) -> list[dict[str, str]]:
    """The rows of a table of sections' scores that a list names; raises UserError for others."""
    wanted = names.read_text(encoding="utf-8").split()
    with table.open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    if missing := [name for name in wanted if not rows.get(name, {}).get("mAP")]:
        raise UserError(f"{names}: {missing[0]} is no section that was scored")
    return [rows[name] for name in wanted]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


class StudyRunner:
    """Does what is left of a study.

    Args:
        study: what to do.
        name: of the study, and of its files in ``docs/results``.
        workspace: data root and output folder.
        jobs: runs side by side; each gets its share of the cores, or a GPU.
        results: where the table goes.
        rows: names of those to do, in this order; None: all.

    Raises:
        UserError: no such row, or a config that does not hold.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        workspace: Workspace,
        jobs: int,
        results: Path,
        rows: list[str] | None = None,
    ) -> None:
        self.study, self.name, self.workspace, self.jobs = study, name, workspace, jobs
        self.results = results
        self.runs = runs_of(study, name)
        known = [row.name for row in study.rows]
        for row in rows or []:
            if row not in known:
                raise UserError(f"--rows {row}: expected some of {', '.join(known)}")
        order = known if rows is None else rows
        chosen = [run for run in self.runs if run.row.name in order]
        trained = {run.name for run in chosen if not run.row.of}
        # those of another row follow its training, unless it is not to be done
        self.others = [run for run in chosen if run.row.of and run.model in trained]
        self.waiting = sorted(
            (run for run in chosen if run not in self.others),
            key=lambda run: (study.seeds.index(run.seed), order.index(run.row.name)),
        )
        self.outputs = workspace.out / "studies" / name  # what the commands print
        self.children: set[subprocess.Popen] = set()
        self.stopping = threading.Event()
        self.gpus = GpuPool()

    def __call__(self) -> list[str]:
        """Train and score what is not done; returns what failed, a line each."""
        self.outputs.mkdir(parents=True, exist_ok=True)
        before = signal.signal(signal.SIGTERM, lambda *_: self.stop())
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                waiting = [pool.submit(self._do_all, run) for run in self.waiting]
                try:
                    return [line for job in waiting if (line := job.result())]
                except KeyboardInterrupt:
                    self.stop()
                    raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def stop(self) -> None:
        """Let the runs save and end."""
        self.stopping.set()
        for child in list(self.children):
            child.send_signal(signal.SIGTERM)

    def _do_all(self, trained: Run) -> str | None:
        """A run, and then those that use its network."""
        others = [run for run in self.others if run.model == trained.name]
        for run in (trained, *others):
            if failure := self._do(run):
                return failure
        return None

    def _do(self, run: Run) -> str | None:
        missing = [file for file in self.study.checkpoints if not self._scored(run, file)]
        models = self._models(run)
        if not missing or self.stopping.is_set():
            return None
        if run.row.of and not (models / "done").exists():
            return f"{run.name}: {run.model}, whose network it takes, is not trained yet"
        if not (models / "done").exists():
            going_on = any((models / name).exists() for name in (TRAINING_STATE, PREVIOUS_STATE))
            option = "--resume" if going_on else "--overwrite"
            print(f"{run.name}: training{' goes on' if going_on else ''}", flush=True)
            if not (going_on and self._is_trained(run, models)):
                code = self._call(run, "main", "--run-name", run.name, option)
                if code:
                    return self._failure(run, "training", code)
            (models / "done").touch()
        for file in missing:
            code = self._call(run, "inference", "-mn", run.model, "--checkpoint", file)
            if code:
                return self._failure(run, file, code)
            inference = self.workspace.inference(run.model)
            scores = self._keep_score(run, file, inference)
            shutil.rmtree(inference)  # probabilities are large, and made again in a minute
            print(f"{run.name}, {file}: " + _text(scores), flush=True)
        return None

    def _models(self, run: Run) -> Path:
        return self.workspace.models(Path("../models"), run.model)

    def _is_trained(self, run: Run, models: Path) -> bool:
        total = load_config(run.config, run.overrides, CONFIG_DIR).config.TRAIN.total_iters
        return load_state(models)[0].get("iteration") == total

    def _call(self, run: Run, script: str, *more: str) -> int:
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        output = self.outputs / f"{run.name}.log"
        with self.gpus.taken() as gpu, output.open("a", encoding="utf-8") as log:
            child = subprocess.Popen(
                run.command(script, self.workspace, *more),
                stdout=log,
                stderr=log,
                env=environment | gpu,
                start_new_session=True,  # Ctrl-C is for us; we pass it on
            )
            self.children.add(child)
            try:
                return child.wait()
            finally:
                self.children.discard(child)

    def _failure(self, run: Run, what: str, code: int) -> str | None:
        if self.stopping.is_set():
            return None
        output = shown(self.outputs / f"{run.name}.log")
        return f"{run.name}: {what} ended with code {code}; see {output}"

    def _score_file(self, run: Run, checkpoint: str) -> Path:
        """Beside the run's logs, which are kept: what has one is done, wherever its weights are."""
        return self.workspace.logs(run.name) / f"scores-{Path(checkpoint).stem}.json"

    def _keep_score(self, run: Run, checkpoint: str, inference: Path) -> dict[str, float]:
        """Keep what a prediction's summary says that holds on other machines; its scores."""
        found = json.loads((inference / SUMMARY).read_text(encoding="utf-8"))
        kept = {key: found[key] for key in KEPT}
        path = Path(found["volume"]["path"])
        if path.is_relative_to(self.workspace.data):
            path = path.relative_to(self.workspace.data)
        kept["volume"] = found["volume"] | {"path": path.as_posix()}
        if run.row.sections:
            rows = _rows_of(inference / SECTIONS, CONFIG_DIR / run.row.sections)
            kept["scores"] = {name: mean(float(row[name]) for row in rows) for name in SCORES}
            kept["volume"]["shape"] = [len(rows), *kept["volume"]["shape"][1:]]
            kept["notes"] = f"{MEASURES['map']}; {run.row.sections}"
        file = self._score_file(run, checkpoint)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return kept["scores"]

    def _scored(self, run: Run, checkpoint: str) -> dict[str, Any] | None:
        """The summary of a checkpoint's prediction, if there is one."""
        try:
            return json.loads(self._score_file(run, checkpoint).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def lines(self) -> Iterator[tuple[Row, str, list[dict[str, Any]]]]:
        """Row, checkpoint and summaries over seeds of each line of the table, as far as done."""
        for row in self.study.rows:
            for file in self.study.checkpoints:
                mine = [run for run in self.runs if run.row is row]
                found = [summary for run in mine if (summary := self._scored(run, file))]
                if found:
                    yield row, file, found

    def write(self) -> Path:
        """Write the table, as Markdown and CSV, the figure, and what all studies say together."""
        self.results.mkdir(parents=True, exist_ok=True)
        lines = list(self.lines())
        with (self.results / f"{self.name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "checkpoint", "seed", *SCORES, "iteration", "revision"])
            for row, checkpoint, summaries in lines:
                for run in (r for r in self.runs if r.row is row):
                    summary = self._scored(run, checkpoint)
                    if summary in summaries:
                        values = [f"{summary['scores'][name]:.4f}" for name in SCORES]
                        origin = [summary["iteration"], summary["revision"]]
                        writer.writerow([row.name, checkpoint, run.seed, *values, *origin])
        path = self.results / f"{self.name}.md"
        path.write_text(self._markdown(lines), encoding="utf-8")
        if lines:
            _figure(lines, self.study.title, self.results / f"{self.name}.png")
        gather(self.results)
        return path

    def _markdown(self, lines: list[tuple[Row, str, list[dict[str, Any]]]]) -> str:
        total = len(self.study.rows) * len(self.study.checkpoints)
        head = [f"# {self.study.title}", "", self.study.about.strip(), ""]
        if len(lines) < total:
            head += [f"{len(lines)} of {total} rows are finished.", ""]
        table = [
            "| run | checkpoint | scored on | iterations | seeds | mAP | F1 | MCC | IoU |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for row, _, summaries in lines:
            rules = {RULES.get(summary["chosen_by"], summary["chosen_by"]) for summary in summaries}
            places = {_scored_on(summary) for summary in summaries}
            lengths = {str(summary["iteration"]) for summary in summaries}
            found = (rules, places, lengths)
            cells = [
                row.name,
                *(", ".join(sorted(values)) for values in found),
                str(len(summaries)),
            ]
            for name in SCORES:
                values = [100 * summary["scores"][name] for summary in summaries]
                spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{mean(values):.1f}{spread}")
            table.append("| " + " | ".join(cells) + " |")
        foot = [
            "",
            "Percent; mean ± standard deviation over the seeds. Checkpoints: the last weights, or "
            f"the {CHOSEN_AVERAGE}. No checkpoint was selected with target labels.",
        ]
        if lines:
            foot += ["", f"![F1 of every seed]({self.name}.png)"]
        if self.study.found:
            foot += ["", self.study.found.strip()]
        foot += [
            "",
            "Commands for the first seed of each row, in bash. To score a checkpoint, run "
            "`inference.py -mn RUN` with the same `-c` and `--set` options.",
            "",
            "```",
            f"study=({_options(self.study.set)})",
        ]
        for row in self.study.rows:
            run = next(run for run in self.runs if run.row is row)
            own = _options(run.overrides[len(self.study.set) :])
            script = f"inference.py -mn {run.model}" if row.of else f"main.py --run-name {run.name}"
            foot += [f'python scripts/{script} -c {run.config} "${{study[@]}}" {own}']
        foot.append("```")
        if lines:
            some = lines[0][2][0]
            revisions = {one["revision"][:10] for _, _, found in lines for one in found}
            foot += [
                "",
                f"Seeds {', '.join(map(str, self.study.seeds))}; {some['notes'].split(';')[0]}; "
                f"{some['device']}, {some['precision']}, torch {some['torch']}; revision "
                f"{', '.join(sorted(revisions))}.",
            ]
        foot += ["", f"Generated by `python scripts/study.py -c studies/{self.name}`."]
        return "\n".join([*head, *table, *foot]) + "\n"


def gather(results: Path) -> Path:
    """Write ``results.md`` beside a folder of tables: all of them, one after the other."""
    parts = [
        "# Results",
        f"Generated by `scripts/study.py` from the files in [{results.name}/]({results.name}). "
        "[beyond.md](beyond.md) describes the options.",
    ]
    for path in sorted(results.glob("*.md")):
        text = path.read_text(encoding="utf-8").strip()
        text = re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)
        text = re.sub(r"\]\((?=[^/)]+\.(png|csv|md)\))", f"]({results.name}/", text)
        parts.append(text.replace("](../", "]("))
    path = results.parent / "results.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _options(overrides: Sequence[str]) -> str:
    return " ".join(f"--set {shlex.quote(override)}" for override in overrides)


def _text(scores: dict[str, float]) -> str:
    return ", ".join(f"{name}={scores[name]:.4f}" for name in SCORES)


def _scored_on(summary: dict[str, Any]) -> str:
    """The volume, and how many of its sections."""
    volume = summary["volume"]
    return f"{volume['path']}, {volume['shape'][0]} sections"


def _figure(lines: list[tuple[Row, str, list[dict[str, Any]]]], title: str, path: Path) -> None:
    """F1 of every seed, and their mean, a line for each row, a mark for each checkpoint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(row.name for row, _, _ in lines))
    files = list(dict.fromkeys(file for _, file, _ in lines))
    figure, axes = pyplot.subplots(figsize=(8, 1.3 + 0.36 * len(rows)), layout="constrained")
    for row, file, summaries in lines:
        number = files.index(file)
        place = rows.index(row.name) + 0.32 * ((number + 0.5) / len(files) - 0.5)
        colour = COLOURS[number % len(COLOURS)]
        values = [100 * summary["scores"]["F1"] for summary in summaries]
        axes.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.6)
        label = NAMES.get(file, file) if row.name == rows[0] else None
        axes.plot(
            mean(values), place, "|", color=colour, markersize=11, markeredgewidth=2.5, label=label
        )
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 44) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row above
    axes.set_xlabel("F1, per cent: each seed, and the mean")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(files) > 1:
        figure.legend(loc="outside lower center", ncols=len(files), frameon=False, fontsize=9)
    figure.suptitle(textwrap.fill(title, 90), fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
