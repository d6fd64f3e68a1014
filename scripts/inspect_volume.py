"""Show how the project reads a volume, and what looks wrong with it."""

import argparse
import json
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import UserError, collected_warnings, run_command, writing_to
from utils.paths import shown


def main() -> None:
    """Read the arguments, inspect the volume, print what it is."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "volume",
        type=Path,
        metavar="VOLUME",
        help="folder of sections, HDF5, TIFF, MRC or NIfTI file, Zarr or N5 store, precomputed "
        "volume, image, or address of a store; FILE:NAME selects an array, "
        "VOLUME[z0:z1,y0:y1,x0:x1] a part",
    )
    parser.add_argument("--labels", action="store_true", help="the volume holds labels")
    parser.add_argument(
        "--list", type=Path, metavar="FILE", help="text file with the names of the sections to use"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="write an overview of the sections to this PNG file",
    )
    args = parser.parse_args()

    from dataloader.description import contact_sheet, describe_volume  # slow to import
    from dataloader.formats.opening import is_section_folder, open_volume
    from utils.files import write_picture

    if args.list and not args.list.is_file():
        raise UserError(f"--list {args.list}: no such file")
    if args.list and not is_section_folder(args.volume):
        raise UserError(f"--list: found {args.volume}, expected a folder of sections")
    facts = describe_volume(args.volume, args.list, args.labels, means=args.json)
    print(json.dumps(facts.as_json()) if args.json else facts.as_text())
    if args.picture:
        with collected_warnings(), writing_to(args.picture.parent):  # printed above
            volume = open_volume(args.volume, args.list, masks=args.labels, keep=False)
            args.picture.parent.mkdir(parents=True, exist_ok=True)
            write_picture(args.picture, contact_sheet(volume))
        if not args.json:
            print(f"picture: {shown(args.picture)}")


if __name__ == "__main__":
    run_command(main)
