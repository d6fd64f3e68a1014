"""The arguments that the commands share."""

import argparse
from pathlib import Path

from utils.config.load import LoadedConfig, load_config
from utils.config.schema import check_run_name
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace


def base_parser(description: str, config_name: str | None = None) -> argparse.ArgumentParser:
    """A parser with the arguments every command has; ``-c`` is needed if it has no default."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "-c",
        "--cfg",
        required=config_name is None,
        default=config_name,
        help="a config's name (vnc2lucchi1) or path to a YAML file"
        + (f" (default: {config_name})" if config_name else ""),
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "data", help="root of the data tree (default: data/)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT,
        help="folder for logs/, models/ and inference/ (default: the project)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        dest="overrides",
        help="override a key of the config; may be repeated",
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    return parser


def read_arguments(args: argparse.Namespace) -> tuple[LoadedConfig, Workspace]:
    """The config and the workspace that the arguments name; raises UserError."""
    if not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder; expected the root of the data tree")
    loaded = load_config(args.cfg, args.overrides, CONFIG_DIR)
    return loaded, Workspace(args.data.resolve(), args.out.resolve())


def folder_name(option: str, name: str) -> str:
    """A run's or a model's name, which must be that of one folder; raises UserError."""
    try:
        return check_run_name(name)
    except ValueError as error:
        raise UserError(f"{option} {name}: {str(error).partition(': ')[2]}") from None
