"""The main job on an embedded default: adapt between two synthetic microscopes, and compare."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import run_command
from utils.paths import ROOT, Workspace


def main() -> None:
    """Read the arguments, do the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of volumes, weights and draws")
    parser.add_argument("--out", type=Path, default=ROOT, help="where data and results go")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    args = parser.parse_args()
    # Late, so that --help does not wait for torch.
    from training.demo import run_demo

    out = args.out.resolve()
    run_demo(Workspace(data=out / "data", out=out), args.seed, args.overrides)


if __name__ == "__main__":
    run_command(main)
