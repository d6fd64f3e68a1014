"""Compare the kept checkpoints of a run without labels, and say what each rule would cost."""

import math

import project_root  # noqa: F401

from utils.cli import base_parser, choose_device, folder_name, read_arguments
from utils.errors import run_command
from training.checkpoint_choice import CHOICES
from utils.paths import shown
from training.selection import choose, examine, keep_chosen, regret


def main() -> None:
    """Measure the checkpoints, print them and what each rule chooses."""
    parser = base_parser(__doc__)
    parser.add_argument(
        "-mn", "--model-name", help="folder in models/ (default: the config's NAME)"
    )
    parser.add_argument(
        "--write", choices=CHOICES, metavar="RULE", help="make what a rule chooses model.ckpt"
    )
    args = parser.parse_args()
    loaded, workspace = read_arguments(args)
    config = loaded.config
    device = choose_device(args.device, config.TRAIN.if_cuda)
    run = folder_name("-mn", args.model_name or config.NAME)
    snapshots, source = examine(config, workspace, run, device)

    print(f"source labels: foreground {source.foreground:.4f}, solidity {source.solidity:.4f}\n")
    if math.isnan(snapshots[0].f1):
        print("no labels (DATA.data_dir_val_label): what a rule costs is unknown\n")
    print("checkpoint           foreground  entropy  agreement  solidity      F1")
    for snapshot in snapshots:
        foreground, entropy, agreement, solidity = snapshot.measures
        print(
            f"{snapshot.file:20} {foreground:10.4f} {entropy:8.4f} {agreement:10.4f} "
            f"{solidity:9.4f}  {snapshot.f1:.4f}"
        )
    print("\nrule        chooses                   F1  regret")
    for rule in CHOICES:
        chosen = choose(rule, snapshots, source)
        print(f"{rule:11} {chosen.file:20}  {chosen.f1:.4f}  {regret(rule, snapshots, source):.4f}")
    if args.write:
        folder = workspace.models(config.TRAIN.save_path, run)
        path = keep_chosen(folder, args.write, choose(args.write, snapshots, source))
        print(f"\n{shown(path)}: chosen by {args.write}")


if __name__ == "__main__":
    run_command(main)
