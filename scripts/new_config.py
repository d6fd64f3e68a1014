"""Inspect your volumes and write a config for them. Read it, change it, then run it."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import run_command

SIZES = ("auto", "full", "small")


def main() -> None:
    """Read the arguments, write the config."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    volume = (
        "folder of sections, HDF5, TIFF, MRC or NIfTI file, Zarr or N5 store (FILE:NAME), "
        "precomputed volume, or address of a store"
    )
    parser.add_argument(
        "--source",
        nargs=2,
        required=True,
        action="append",
        metavar=("RAW", "LABELS"),
        help=f"labelled volume and its labels, each a {volume}; may be repeated",
    )
    parser.add_argument("--target", required=True, metavar="RAW", help="volume to segment")
    parser.add_argument("--target-labels", metavar="LABELS", help="its labels, for scores only")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="config to write, such as config/mine.yaml",
    )
    for role in ("source", "target"):
        several = role == "source"
        action, once = ("append", "; once for each --source") if several else ("store", "")
        parser.add_argument(
            f"--pixel-size-{role}",
            type=float,
            action=action,
            metavar="NM",
            help=f"in-plane{once} (default: read from the file)",
        )
        parser.add_argument(
            f"--section-spacing-{role}",
            type=float,
            action=action,
            metavar="NM",
            help=f"between sections{once} (default: read from the file)",
        )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="auto",
        help="full: published network, for a GPU; small: for CPU cores; auto: full if there is a "
        "GPU (default: auto)",
    )
    parser.add_argument("--plus", action="store_true", help="go beyond the paper (docs/beyond.md)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing config")
    args = parser.parse_args()
    # Imported late so that --help does not wait for torch.
    from training.new_config import Answers, new_config

    new_config(Answers(**vars(args)))


if __name__ == "__main__":
    run_command(main)
