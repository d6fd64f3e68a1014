"""The results of a study: a table as Markdown and CSV, a figure, and the commands of the runs."""

import csv
import re
import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from model.checkpoint import AVERAGE, CHOSEN_AVERAGE, CHOSEN_BY, LAST, MODEL
from training.study.pictures import Panel, draw_panels, worst_picture
from training.study.scores import SCORES, Summary, read_scores
from training.study.spec import Row, Run, Study
from utils.paths import Workspace

RULES = {chosen: rule for rule, chosen in CHOSEN_BY.items()}  # by a checkpoint's ``chosen_by``
LEGEND = {LAST: "last weights", AVERAGE: CHOSEN_AVERAGE, MODEL: "model.ckpt"}  # of the figure
UPPER_BOUND = "best F1"
WORST = (
    "*The section with the lowest F1 of each run, first seed; of large sections the middle. Labels "
    "red, predictions green.*"
)
COLOURS = ("#c77", "#247", "#7a5", "#a7c")


class Line(NamedTuple):
    """One line of the table: a row scored with one checkpoint, by seed."""

    row: Row
    checkpoint: str
    summaries: dict[int, Summary]

    def values(self, score: str) -> list[float]:
        """A score of every seed, per cent."""
        return [100 * summary["scores"][score] for summary in self.summaries.values()]

    @property
    def upper_bounds(self) -> list[float]:
        """The F1 of every seed at its best threshold, per cent; none where it was not measured."""
        found = [summary.get("upper_bound") for summary in self.summaries.values()]
        return [100 * bound["F1"] for bound in found if bound]


class StudyTable:
    """What is known of a study's results.

    Args:
        study: the study.
        name: its name; names the files.
        runs: all its runs.
        workspace: holds the scores, in ``logs/``.
    """

    def __init__(self, study: Study, name: str, runs: list[Run], workspace: Workspace) -> None:
        self.study, self.name, self.runs = study, name, runs
        self.lines, self.panels = [], []
        for row in study.rows:
            for checkpoint in study.scored(row):
                read = {r.seed: read_scores(workspace, r, checkpoint) for r in runs if r.row is row}
                if found := {seed: summary for seed, summary in read.items() if summary}:
                    self.lines.append(Line(row, checkpoint, found))
                for run in runs:
                    if run.row is row and (panel := _panel(workspace, run, checkpoint)):
                        self.panels.append(panel)

    def write(self, folder: Path) -> Path:
        """Write the table as Markdown and CSV, the figure, and ``results.md`` beside the folder.

        Returns:
            The path of the Markdown file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._write_csv(folder / f"{self.name}.csv")
        path = folder / f"{self.name}.md"
        path.write_text(self._markdown(), encoding="utf-8")
        if self.lines:
            draw_figure(self.lines, self.study.title, folder / f"{self.name}.png")
        if self.panels:
            draw_panels(self.panels, folder / f"{self.name}_worst.jpg")
        gather(folder)
        return path

    def _write_csv(self, path: Path) -> None:
        """A line for each seed."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["row", "checkpoint", "seed", *SCORES, "iteration", "revision"])
            for row, checkpoint, summaries in self.lines:
                for seed, summary in summaries.items():
                    scores = [f"{summary['scores'][name]:.4f}" for name in SCORES]
                    origin = [summary["iteration"], summary["revision"]]
                    writer.writerow([row.name, checkpoint, seed, *scores, *origin])

    def _markdown(self) -> str:
        text = [f"# {self.study.title}", "", self.study.about.strip(), ""]
        total = sum(len(self.study.scored(row)) for row in self.study.rows)
        if len(self.lines) < total:
            text += [f"{len(self.lines)} of {total} rows are finished.", ""]
        bounded = any(line.upper_bounds for line in self.lines)
        heading = ["run", "checkpoint", "scored on", "iterations", "seeds", *SCORES]
        heading += [UPPER_BOUND] if bounded else []
        text += [
            f"| {' | '.join(heading)} |",
            "|" + "---|" * len(heading),
            *(_table_line(line, bounded) for line in self.lines),
            "",
            "Percent; mean ± standard deviation over the seeds. Checkpoints: the last weights, or "
            f"the {CHOSEN_AVERAGE}. No checkpoint was selected with target labels.",
        ]
        if bounded:
            text[-1] += (
                f" *{UPPER_BOUND}*: at the threshold that is best for these labels, an upper bound "
                "and not a result."
            )
        if self.lines:
            text += ["", f"![F1 of every seed]({self.name}.png)"]
        if self.panels:
            text += ["", f"![Labels and predictions]({self.name}_worst.jpg)", "", WORST]
        if self.study.found:
            text += ["", self.study.found.strip()]
        text += ["", *self._commands()]
        if self.lines:
            text += ["", self._environment()]
        text += ["", f"Generated by `python scripts/study.py -c studies/{self.name}`."]
        return "\n".join(text) + "\n"

    def _commands(self) -> list[str]:
        """The command that trains, or predicts, the first seed of each finished row, or of all."""
        finished = {line.row.name for line in self.lines}
        lines = []
        for row in sorted(self.study.rows, key=lambda row: bool(row.of)):  # trained ones first
            if finished and row.name not in finished:
                continue
            run = next(run for run in self.runs if run.row is row)
            script = f"inference.py -mn {run.model}" if row.of else f"main.py --run-name {run.name}"
            if row.checkpoint:
                script += f" --checkpoint {row.checkpoint}"
            own = _options(run.overrides[len(self.study.set) :])
            lines.append(f'python scripts/{script} -c {run.config} "${{study[@]}}" {own}')
        return [
            "Commands for the first seed of each row, in bash. To score a checkpoint, run "
            "`inference.py -mn RUN` with the same `-c` and `--set` options.",
            "",
            "```",
            f"study=({_options(self.study.set)})",
            *lines,
            "```",
        ]

    def _environment(self) -> str:
        """Seeds, measure, devices, precisions and versions of the finished runs."""
        summaries = [summary for line in self.lines for summary in line.summaries.values()]

        def each(name: str) -> str:
            return ", ".join(sorted({summary[name] for summary in summaries}))

        seeds = sorted({seed for line in self.lines for seed in line.summaries})
        revisions = sorted({summary["revision"][:10] for summary in summaries})
        return (
            f"Seeds {', '.join(map(str, seeds))}; {summaries[0]['notes'].split(';')[0]}; "
            f"{each('device')}, {each('precision')}, torch {each('torch')}; revision "
            f"{', '.join(revisions)}."
        )


def _panel(workspace: Workspace, run: Run, checkpoint: str) -> Panel | None:
    """The picture of a run's worst section, if it was drawn."""
    worst = (read_scores(workspace, run, checkpoint) or {}).get("worst")
    path = worst_picture(workspace, run, checkpoint)
    if not worst or not path.exists():
        return None
    return Panel(path, run.row.name, f"{worst['section']}: F1 {100 * worst['F1']:.1f}")


def _table_line(line: Line, bounded: bool) -> str:
    """A line of the Markdown table, scores as mean and standard deviation.

    Args:
        line: of the table.
        bounded: whether the table has a column of upper bounds.
    """
    summaries = line.summaries.values()
    rules = {RULES.get(summary["chosen_by"], summary["chosen_by"]) for summary in summaries}
    volumes = {
        f"{summary['volume']['path']}, {summary['volume']['shape'][0]} sections"
        for summary in summaries
    }
    iterations = {str(summary["iteration"]) for summary in summaries}
    cells = [line.row.name]
    cells += [", ".join(sorted(found)) for found in (rules, volumes, iterations)]
    cells.append(str(len(summaries)))
    cells += [_spread(line.values(name)) for name in SCORES]
    cells += [_spread(line.upper_bounds)] if bounded else []
    return f"| {' | '.join(cells)} |"


def _spread(values: list[float]) -> str:
    """Mean and, of several values, standard deviation; empty without a value."""
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}" if values else ""


def _options(overrides: Sequence[str]) -> str:
    """As ``--set`` options; of a key that is set twice the last value counts."""
    last = {override.partition("=")[0]: override for override in overrides}
    return " ".join(f"--set {shlex.quote(override)}" for override in last.values())


def draw_figure(lines: list[Line], title: str, path: Path) -> None:
    """Draw F1 of every seed as dots and the mean as a bar, a colour for each checkpoint."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = list(dict.fromkeys(line.row.name for line in lines))
    files = list(dict.fromkeys(line.checkpoint for line in lines))
    figure, axes = pyplot.subplots(figsize=(8, 1.3 + 0.36 * len(rows)), layout="constrained")
    for line in lines:
        number = files.index(line.checkpoint)
        y = rows.index(line.row.name) + 0.32 * ((number + 0.5) / len(files) - 0.5)
        values, colour = line.values("F1"), COLOURS[number % len(COLOURS)]
        axes.plot(values, [y] * len(values), "o", color=colour, markersize=4, alpha=0.6)
        first = next(other for other in lines if other.checkpoint == line.checkpoint)
        label = LEGEND.get(line.checkpoint, line.checkpoint) if line is first else None
        bar = {"color": colour, "markersize": 11, "markeredgewidth": 2.5}
        axes.plot(mean(values), y, "|", label=label, **bar)
    axes.set_yticks(range(len(rows)), [textwrap.fill(name, 44) for name in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)  # the first row at the top
    axes.set_xlabel("F1, per cent: each seed, and the mean")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if len(files) > 1:
        figure.legend(loc="outside lower center", ncols=len(files), frameon=False, fontsize=9)
    figure.suptitle(textwrap.fill(title, 90), fontsize=10)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def gather(folder: Path) -> Path:
    """Write ``results.md`` beside a folder of tables: all of them, one after the other."""
    parts = [
        "# Results",
        f"Generated by `scripts/study.py` from the files in [{folder.name}/]({folder.name}). "
        "[beyond.md](beyond.md) describes the options.",
    ]
    for path in sorted(folder.glob("*.md")):
        text = path.read_text(encoding="utf-8").strip()
        text = re.sub(r"^(#+ )", r"#\1", text, flags=re.MULTILINE)
        text = re.sub(r"\]\((?=[^/)]+\.(png|jpg|csv|md)\))", f"]({folder.name}/", text)
        parts.append(text.replace("](../", "]("))
    path = folder.parent / "results.md"
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
