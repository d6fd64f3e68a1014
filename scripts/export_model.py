"""Export a trained model: ONNX and a bioimage.io package, or a checkpoint of half the size."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.cli import add_out, folder_name
from utils.errors import run_command
from utils.paths import Workspace


def main() -> None:
    """Read the arguments, export the model."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-mn",
        "--model-name",
        required=True,
        metavar="NAME",
        help="folder in models/ with the checkpoint",
    )
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="file in that folder (default: model.ckpt)"
    )
    parser.add_argument(
        "--half", action="store_true", help="write only the checkpoint, in half precision"
    )
    add_out(parser, "folder that holds models/")
    args = parser.parse_args()
    name = folder_name("-mn", args.model_name)
    # Imported late so that --help does not wait for torch.
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
