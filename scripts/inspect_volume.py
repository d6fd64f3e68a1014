"""Say what the project makes of a volume, before anything is computed."""

import argparse
import json
from pathlib import Path

import project_root  # noqa: F401

from utils.errors import UserError, collected_warnings, run_command, writing_to
from utils.paths import shown


def main() -> None:
    """Read the arguments, look at the volume, print what it is."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "volume",
        type=Path,
        metavar="VOLUME",
        help="a folder of sections, an HDF5, TIFF, MRC or NIfTI file, a Zarr store (file:name for "
        "an array in it), or an image",
    )
    parser.add_argument("--labels", action="store_true", help="the volume holds labels")
    parser.add_argument(
        "--list", type=Path, metavar="FILE", help="names of a folder's sections to use, one a line"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object, for programs")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="write a contact sheet to this PNG file"
    )
    args = parser.parse_args()

    from dataloader.description import contact_sheet, describe_volume  # slow to import
    from dataloader.formats.opening import is_section_folder, open_volume
    from utils.files import write_picture

    if args.list and not args.list.is_file():
        raise UserError(f"--list {args.list}: no such file")
    if args.list and not is_section_folder(args.volume):
        raise UserError(f"--list: found {args.volume}, which is no folder of sections")
    facts = describe_volume(args.volume, args.list, args.labels, means=args.json)
    print(json.dumps(facts.as_json()) if args.json else facts.as_text())
    if args.picture:
        with collected_warnings(), writing_to(args.picture.parent):  # all are told by now
            volume = open_volume(args.volume, args.list, masks=args.labels, keep=False)
            args.picture.parent.mkdir(parents=True, exist_ok=True)
            write_picture(args.picture, contact_sheet(volume))
        if not args.json:
            print(f"picture: {shown(args.picture)}")


if __name__ == "__main__":
    run_command(main)
