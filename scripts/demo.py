"""Demo: adapt a network between two synthetic microscopes; compare with source-only training."""

import argparse

import project_root  # noqa: F401

from utils.cli import add_out, add_set
from utils.errors import run_command
from utils.paths import Workspace


def main() -> None:
    """Read the arguments, run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seed",
        type=int,
        default=1,
        metavar="N",
        help="of the volumes and of both runs (default: 1)",
    )
    add_out(parser, "folder for volumes and results")
    add_set(parser)
    args = parser.parse_args()
    # Imported late so that --help does not wait for torch.
    from training.demo import run_demo

    out = args.out.resolve()
    run_demo(Workspace(data=out / "data", out=out), args.seed, args.overrides)


if __name__ == "__main__":
    run_command(main)
