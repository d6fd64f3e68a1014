"""Convert a published data set to the volumes that the shipped configs use."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from dataloader.published.catalogue import DATA_SETS
from utils.cli import add_data
from utils.errors import run_command


def main() -> None:
    """Read the arguments, prepare the data set."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("data_set", choices=DATA_SETS, help="data set to prepare")
    parser.add_argument(
        "--from",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        dest="given",
        help="downloaded archives or files, or folders with their content",
    )
    parser.add_argument(
        "--download",
        action="store_true",
        help="download missing files to downloads/ in the data tree",
    )
    add_data(parser)
    args = parser.parse_args()
    # Imported late so that --help does not wait for the libraries.
    from dataloader.published.preparation import Preparation

    Preparation(DATA_SETS[args.data_set], args.data, args.given, args.download).run()
    print("Done")


if __name__ == "__main__":
    run_command(main)
