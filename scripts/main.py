"""Train a segmentation network on a labelled source volume and adapt it to an unlabelled target."""

import argparse
from pathlib import Path

import project_root  # noqa: F401

from utils.cli import base_parser, folder_name, read_arguments
from utils.errors import UserError, run_command
from utils.paths import absolute, shown


def parse_arguments() -> argparse.Namespace:
    """The command line; raises UserError."""
    parser = base_parser(__doc__)
    parser.add_argument(
        "-m", "--mode", default="train", metavar="train", help="accepted for the published commands"
    )
    parser.add_argument(
        "--run-name", metavar="NAME", help="name of the run's folders (default: NAME of the config)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="delete an earlier run of that name"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue an interrupted run from its last save"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="try the config: two iterations, a validation on two sections, a checkpoint",
    )
    parser.add_argument(
        "--corrections",
        type=Path,
        metavar="PATH",
        help="corrected masks of some target sections to learn from (DATA.corrections)",
    )
    args = parser.parse_args()
    if args.mode != "train":
        raise UserError(f"-m {args.mode}: expected train; inference.py predicts and scores")
    if args.resume and (args.overwrite or args.check):
        raise UserError("--resume: cannot be combined with --overwrite or --check")
    return args


def main() -> None:
    """Read the arguments, build the trainer, train."""
    args = parse_arguments()
    # Imported late so that --help does not wait for torch.
    from model.checkpoint import CHOSEN_BY, MODEL
    from training.recorded import train_recorded
    from training.trainer import CHECK_SETTINGS, Trainer
    from utils.runtime.device import choose_device
    from utils.runtime.distributed import Group

    loaded, workspace = read_arguments(args)
    config = loaded.config
    run = folder_name("--run-name", args.run_name or config.NAME)
    changes = {"resume": True} if args.resume else {}
    if args.check:
        run += "-check"
        changes = CHECK_SETTINGS
    config = config.model_copy(update={"TRAIN": config.TRAIN.model_copy(update=changes)})
    if args.corrections:
        data = config.DATA.model_copy(update={"corrections": absolute(args.corrections)})
        config = config.model_copy(update={"DATA": data})
    device = choose_device(args.device, config.TRAIN.if_cuda)

    group = Group.join()
    trainer = Trainer(config, workspace, run, device, check=args.check, group=group)
    heading = (f"cfg_file: {loaded.path.name}", f"device: {device}")
    train_recorded(trainer, heading, overwrite=args.overwrite or args.check)
    group.leave()
    print(f"logs: {shown(trainer.folder.logs)}")
    chosen = CHOSEN_BY[config.TRAIN.choose_by]
    print(f"checkpoint: {shown(trainer.folder.models)}/{MODEL} ({chosen})")
    print("Done")


if __name__ == "__main__":
    run_command(main)
