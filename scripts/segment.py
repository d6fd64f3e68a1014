"""Segment the mitochondria of a raw volume: adapt a network, predict, find the objects, report."""

import argparse

import project_root  # noqa: F401

from utils.cli import add_data, add_device, add_out, add_set
from utils.errors import UserError, run_command
from utils.paths import Workspace


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "volume",
        metavar="VOLUME",
        help="folder of sections, HDF5, TIFF, MRC or NIfTI file, Zarr or N5 store, precomputed "
        "volume, image, or address of a store; FILE:NAME selects an array, "
        "VOLUME[z0:z1,y0:y1,x0:x1] a part",
    )
    parser.add_argument("--labels", metavar="LABELS", help="its labels, for scores only")
    parser.add_argument(
        "--source",
        nargs=2,
        action="append",
        default=[],
        metavar=("RAW", "LABELS"),
        help="labelled volume to learn from; may be repeated (default: of the published sets under "
        "the data root, one of each)",
    )
    for role, whose in (("", "of VOLUME"), ("-source", "once for each --source")):
        for name, what in (("pixel-size", "in-plane"), ("section-spacing", "between sections")):
            parser.add_argument(
                f"--{name}{role}",
                type=float,
                action="append" if role else "store",
                metavar="NM",
                help=f"{what}, {whose} (default: read from the file)",
            )
    parser.add_argument(
        "--size",
        choices=("auto", "full", "small"),
        default="auto",
        help="full: published network, for a GPU; small: for CPU cores (default: auto)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="predict at once, with a model that is shipped"
    )
    parser.add_argument(
        "--preview", action="store_true", help="do all of it on a crop, in five minutes"
    )
    parser.add_argument(
        "--run-name", metavar="NAME", help="name of the folders (default: that of VOLUME)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start again, and delete an earlier run"
    )
    parser.add_argument(
        "--format",
        dest="output_format",
        choices=["tiff", "hdf5", "ome-zarr"],
        help="of the results (default: that of VOLUME)",
    )
    add_data(parser)
    add_out(parser, "folder for logs/, models/ and inference/")
    add_set(parser)
    add_device(parser)
    return parser.parse_args()


def main() -> None:
    """Read the arguments, segment the volume."""
    args = vars(parse_arguments())
    # Imported late so that --help does not wait for torch.
    from training.segment.options import Options
    from training.segment.run import segment

    data, out = args.pop("data"), args.pop("out")
    if args["source"] == [] and not args["quick"] and not data.is_dir():
        raise UserError(f"--data {data}: no such folder; expected the root of the data tree")
    segment(Options(**args, workspace=Workspace(data.resolve(), out.resolve())))


if __name__ == "__main__":
    run_command(main)
