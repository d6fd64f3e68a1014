"""A trained model for others: ONNX and a package for bioimage.io; or a small file to hand on."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from model.checkpoint import MODEL
from utils.cli import folder_name
from utils.errors import run_command
from prediction.export import export, export_half
from utils.paths import ROOT, Workspace


def main() -> None:
    """Read the arguments, export, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-mn", "--model-name", required=True, help="folder in models/ that holds the checkpoint"
    )
    parser.add_argument(
        "--checkpoint", default=MODEL, metavar="FILE", help=f"in that folder (default: {MODEL})"
    )
    parser.add_argument(
        "--half", action="store_true", help="instead: the checkpoint at half precision and size"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT, help="folder that holds models/ (default: the project)"
    )
    args = parser.parse_args()
    name = folder_name("-mn", args.model_name)
    folder = Workspace(out=args.out.resolve()).models(Path("models"), name)
    if args.half:
        export_half(folder / args.checkpoint, folder / "export")
    else:
        export(folder / args.checkpoint, folder / "export", name)


if __name__ == "__main__":
    run_command(main)
