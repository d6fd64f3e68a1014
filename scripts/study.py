"""Train and score the runs of a study, several at a time, and write their table.

Finished runs are skipped and interrupted ones resumed.
"""

import argparse
import os
from pathlib import Path

import project_root  # noqa: F401

from utils.cli import add_data, add_out
from utils.errors import UserError, run_command
from utils.optional import wanted
from utils.paths import ROOT, Workspace, shown


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-c",
        "--cfg",
        required=True,
        metavar="STUDY",
        help="name of a study in config/studies/, or path of a YAML file",
    )
    add_data(parser)
    add_out(parser, "folder for logs/, models/ and studies/")
    parser.add_argument(
        "--results",
        type=Path,
        default=ROOT / "docs/results",
        metavar="DIR",
        help="folder for the table and the figure (default: docs/results/)",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time (default: one per GPU or core)"
    )
    parser.add_argument(
        "--rows", nargs="+", metavar="ROW", help="run only these rows, in this order"
    )
    parser.add_argument(
        "--table", action="store_true", help="write the table of the finished runs; run nothing"
    )
    return parser.parse_args()


def main() -> None:
    """Read the arguments, run what is missing of the study, write its table."""
    args = parse_arguments()
    # Imported late so that --help does not wait for torch.
    import torch

    from training.study.runner import StudyRunner
    from training.study.spec import load_study
    from training.study.table import StudyTable

    wanted("matplotlib", "for a study's figure")
    if not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder; expected the root of the data tree")
    jobs = args.jobs or torch.cuda.device_count() or os.cpu_count() or 1
    if jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected 1 or more")

    study, name = load_study(args.cfg)
    workspace = Workspace(args.data.resolve(), args.out.resolve())
    runner = StudyRunner(study, name, workspace, jobs, args.rows)
    print(f"{study.title}: {len(runner.trainings)} runs, {jobs} at a time")
    failures = [] if args.table else runner.run()
    print(f"table: {shown(StudyTable(study, name, runner.runs, workspace).write(args.results))}")
    if failures:
        raise UserError("; ".join(failures))
    if runner.stopping.is_set():
        raise UserError("stopped; everything is saved, and the same command resumes")
    print("Done")


if __name__ == "__main__":
    run_command(main)
