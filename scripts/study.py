"""Do a study: runs over seeds, side by side, gone on with where it stopped, in one table."""

import argparse
import os
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import UserError, run_command
from utils.optional import wanted
from utils.paths import ROOT, Workspace, shown


def main() -> None:
    """Read the arguments, do what is left of the study, write its table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-c", "--cfg", required=True, help="a study of config/, as studies/ablation"
    )
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="root of the data tree")
    parser.add_argument("--out", type=Path, default=ROOT, help="for logs/, models/, studies/")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "docs/results", help="for the table and the figure"
    )
    parser.add_argument("--jobs", type=int, help="runs side by side (default: one per core or GPU)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these alone, in this order")
    parser.add_argument(
        "--table", action="store_true", help="write the table of what is done, no more"
    )
    args = parser.parse_args()

    # Late, so that --help does not wait for torch.
    import torch

    from training.study import StudyRunner, load_study

    wanted("matplotlib", "for a study's figure")
    if not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder; expected the root of the data tree")
    jobs = args.jobs or torch.cuda.device_count() or os.cpu_count() or 1
    if jobs < 1:
        raise UserError(f"--jobs {args.jobs}: expected 1 or more")

    study, name = load_study(args.cfg)
    workspace = Workspace(args.data.resolve(), args.out.resolve())
    runner = StudyRunner(study, name, workspace, jobs, args.results, args.rows)
    print(f"{study.title}: {len(runner.waiting)} runs, {jobs} side by side")
    failures = [] if args.table else runner()
    print(f"table: {shown(runner.write())}")
    if failures:
        raise UserError("; ".join(failures))
    if runner.stopping.is_set():
        raise UserError("stopped; all is saved, and the same command goes on")
    print("Done")


if __name__ == "__main__":
    run_command(main)
