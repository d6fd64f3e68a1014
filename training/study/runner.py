"""Runs the unfinished runs of a study, several at a time."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from model.checkpoint import PREVIOUS_STATE, TRAINING_STATE, load_state
from training.study.pictures import draw_worst
from training.study.scores import SCORES, read_scores, store_scores
from training.study.spec import Run, Study, list_runs
from utils.config.load import load_config
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace, shown
from utils.runtime.gpus import GpuPool

SCRIPTS = ROOT / "scripts"
DONE = "done"  # empty file next to the checkpoints of a finished training


class StudyRunner:
    """Trains and scores what is missing of a study; each step is a command of its own.

    Args:
        study: the study.
        name: its name.
        workspace: data root and output folder.
        jobs: number of runs at a time; each gets an equal share of the cores, or a GPU.
        rows: names of the rows to run, in this order; None: all.

    Attributes:
        runs: all runs of the study.
        trainings: the runs that train a network, in the order in which they start.
        stopping: set once SIGTERM or Ctrl-C has arrived.

    Raises:
        UserError: a row does not exist, or a config is invalid.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        workspace: Workspace,
        jobs: int,
        rows: list[str] | None = None,
    ) -> None:
        self.study, self.workspace, self.jobs = study, workspace, jobs
        self.runs = list_runs(study, name)
        known = [row.name for row in study.rows]
        for row in rows or []:
            if row not in known:
                raise UserError(f"--rows {row}: expected some of {', '.join(known)}")
        order = rows or known
        chosen = [run for run in self.runs if run.row.name in order]
        trained = {run.name for run in chosen if not run.row.of}
        # Runs that predict with the network of another run wait for it, if it is chosen too.
        self.dependent = [run for run in chosen if run.row.of and run.model in trained]
        self.trainings = sorted(
            (run for run in chosen if run not in self.dependent),
            key=lambda run: (study.seeds.index(run.seed), order.index(run.row.name)),
        )
        self.outputs = workspace.out / "studies" / name  # output of the commands
        self.children: set[subprocess.Popen] = set()
        self.stopping = threading.Event()
        self.gpus = GpuPool()

    def run(self) -> list[str]:
        """Run everything that is missing.

        Returns:
            A line for each failure; the other runs are finished all the same.
        """
        self.outputs.mkdir(parents=True, exist_ok=True)
        before = signal.signal(signal.SIGTERM, lambda *_: self.stop())
        try:
            with ThreadPoolExecutor(self.jobs) as pool:
                jobs = [pool.submit(self._run_with_dependents, run) for run in self.trainings]
                try:
                    return [failure for job in jobs if (failure := job.result())]
                except KeyboardInterrupt:
                    self.stop()
                    raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def stop(self) -> None:
        """Ask all running commands to save and exit."""
        self.stopping.set()
        for child in list(self.children):
            child.send_signal(signal.SIGTERM)

    def _run_with_dependents(self, trained: Run) -> str | None:
        """Train and score a run, then score the runs that use its network; returns a failure."""
        dependent = [run for run in self.dependent if run.model == trained.name]
        return next(filter(None, map(self._run_missing, (trained, *dependent))), None)

    def _run_missing(self, run: Run) -> str | None:
        missing = [
            checkpoint
            for checkpoint in self.study.scored(run.row)
            if not read_scores(self.workspace, run, checkpoint)
        ]
        if not missing or self.stopping.is_set():
            return None
        failure = self._train(run)
        for checkpoint in missing:
            if failure or self.stopping.is_set():
                break
            failure = self._score(run, checkpoint)
        return failure

    def _train(self, run: Run) -> str | None:
        """Start or resume the training of a run unless it is finished; returns a failure."""
        models = self.workspace.models(Path("../models"), run.model)
        if (models / DONE).exists():
            return None
        if run.row.of:
            return f"{run.name}: needs the network of {run.model}, which is not trained yet"
        resumes = any((models / name).exists() for name in (TRAINING_STATE, PREVIOUS_STATE))
        print(f"{run.name}: {'resuming ' if resumes else ''}training", flush=True)
        if not (resumes and _is_complete(run, models)):
            option = "--resume" if resumes else "--overwrite"
            code = self._call(run, "main", "--run-name", run.name, option)
            if code:
                return self._failure(run, "training", code)
        (models / DONE).touch()
        return None

    def _score(self, run: Run, checkpoint: str) -> str | None:
        """Predict with a checkpoint and store the scores; returns a failure."""
        code = self._call(run, "inference", "-mn", run.model, "--checkpoint", checkpoint)
        if code:
            return self._failure(run, checkpoint, code)
        drawn = run.row.worst and run.seed == self.study.seeds[0]
        worst = draw_worst(self.workspace, run, checkpoint) if drawn else None
        scores = store_scores(self.workspace, run, checkpoint, worst)["scores"]
        shutil.rmtree(self.workspace.inference(run.model))  # large, and quick to predict again
        text = ", ".join(f"{name}={scores[name]:.4f}" for name in SCORES)
        print(f"{run.name}, {checkpoint}: {text}", flush=True)
        return None

    def _call(self, run: Run, script: str, *options: str) -> int:
        """Run a command of the project with its output in a file; returns its exit code."""
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        places = ["--data", str(self.workspace.data), "--out", str(self.workspace.out)]
        sets = [part for override in run.overrides for part in ("--set", override)]
        command = [sys.executable, str(SCRIPTS / f"{script}.py"), "-c", run.config, *places, *sets]
        output = self._output(run)
        with self.gpus.taken() as gpu, output.open("a", encoding="utf-8") as log:
            child = subprocess.Popen(
                [*command, *options],
                stdout=log,
                stderr=log,
                env=environment | gpu,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            )
            self.children.add(child)
            try:
                return child.wait()
            finally:
                self.children.discard(child)

    def _failure(self, run: Run, what: str, code: int) -> str | None:
        """The line of a command that failed; None if it was asked to stop."""
        if self.stopping.is_set():
            return None
        return f"{run.name}: {what} ended with code {code}; see {shown(self._output(run))}"

    def _output(self, run: Run) -> Path:
        return self.outputs / f"{run.name}.log"


def _is_complete(run: Run, models: Path) -> bool:
    """Whether the saved state is of the last iteration."""
    total = load_config(run.config, run.overrides, CONFIG_DIR).config.TRAIN.total_iters
    return load_state(models)[0].get("iteration") == total
