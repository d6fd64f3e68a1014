"""Look at your volumes and write a config for them, to be read, changed and run."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import run_command

SIZES = ("auto", "full", "small")


def main() -> None:
    """Read the arguments, look at the volumes, write the config and a sheet of thumbnails."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    volume = "a folder of sections, or an HDF5, TIFF, MRC, NIfTI file or Zarr store (file:name)"
    parser.add_argument(
        "--source", nargs=2, required=True, metavar=("RAW", "LABELS"), help=f"labelled: {volume}"
    )
    parser.add_argument("--target", required=True, metavar="RAW", help="to be segmented")
    parser.add_argument("--target-labels", metavar="LABELS", help="to score against, if you have")
    parser.add_argument("-o", "--output", type=Path, required=True, help="config/mine.yaml, say")
    for role in ("source", "target"):
        parser.add_argument(
            f"--pixel-size-{role}", type=float, metavar="NM", help="in-plane, over the file's own"
        )
        parser.add_argument(
            f"--section-spacing-{role}", type=float, metavar="NM", help="between sections"
        )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="auto",
        help="of network and run: full for a GPU, small for CPU cores (default: what is here)",
    )
    parser.add_argument(
        "--plus", action="store_true", help="what goes beyond the paper (docs/beyond.md)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier file")
    args = parser.parse_args()
    # Late, so that --help does not wait for torch.
    from training.new_config import Answers, new_config

    new_config(Answers(**vars(args)))


if __name__ == "__main__":
    run_command(main)
