"""Build the data tree's volumes from the files that their publishers offer."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from dataloader.published.catalogue import DATA_SETS
from utils.errors import run_command
from utils.paths import ROOT


def main() -> None:
    """Read the arguments, prepare the data set."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data_set", choices=DATA_SETS, help="which data set")
    parser.add_argument(
        "--from",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        dest="given",
        help="official archives or files, or folders that they are unpacked in",
    )
    parser.add_argument(
        "--download", action="store_true", help="fetch what is not given into downloads/ there"
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", help="root of the data tree (default: data/)"
    )
    args = parser.parse_args()
    # Late, so that --help does not wait for the libraries.
    from dataloader.published.preparation import Preparation

    Preparation(DATA_SETS[args.data_set], args.data, args.given, args.download).run()
    print("Done")


if __name__ == "__main__":
    run_command(main)
