"""A trained model for others: ONNX and a package for bioimage.io; or a small file to hand on."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.cli import folder_name
from utils.errors import run_command
from utils.paths import ROOT, Workspace


def main() -> None:
    """Read the arguments, export, say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-mn", "--model-name", required=True, help="folder in models/ that holds the checkpoint"
    )
    parser.add_argument("--checkpoint", metavar="FILE", help="in that folder (default: model.ckpt)")
    parser.add_argument(
        "--half", action="store_true", help="instead: the checkpoint at half precision and size"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT, help="folder that holds models/ (default: the project)"
    )
    args = parser.parse_args()
    name = folder_name("-mn", args.model_name)
    # Late, so that --help does not wait for torch.
    from model.checkpoint import MODEL
    from prediction.export import export, export_half

    folder = Workspace(out=args.out.resolve()).models(Path("models"), name)
    checkpoint = folder / (args.checkpoint or MODEL)
    if args.half:
        export_half(checkpoint, folder / "export")
    else:
        export(checkpoint, folder / "export", name)


if __name__ == "__main__":
    run_command(main)
