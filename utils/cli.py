"""Command line arguments that several commands share."""

import argparse
from pathlib import Path

from utils.config.load import LoadedConfig, load_config
from utils.config.schema import check_run_name
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace


def base_parser(description: str, config_name: str | None = None) -> argparse.ArgumentParser:
    """A parser with the shared arguments; ``-c`` is required unless ``config_name`` is given."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "-c",
        "--cfg",
        required=config_name is None,
        default=config_name,
        metavar="CONFIG",
        help="name of a config (such as vnc2lucchi1) or path of a YAML file"
        + (f" (default: {config_name})" if config_name else ""),
    )
    add_data(parser)
    add_out(parser, "folder for logs/, models/ and inference/")
    add_set(parser)
    add_device(parser)
    return parser


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add ``--set``, which overrides keys of a config."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.key=value",
        dest="overrides",
        help="override a key of the config; may be repeated",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda", "mps"],
        default="auto",
        help="auto: a GPU if there is one (default: auto)",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, the root of the data tree."""
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / "data",
        metavar="DIR",
        help="root of the data tree (default: data/)",
    )


def add_out(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add ``--out``, the folder for results; ``purpose`` is its help text."""
    parser.add_argument(
        "--out", type=Path, default=ROOT, metavar="DIR", help=f"{purpose} (default: the project)"
    )


def read_arguments(args: argparse.Namespace) -> tuple[LoadedConfig, Workspace]:
    """The config and the workspace that the arguments name.

    Raises:
        UserError: the data root does not exist, or the config is missing or invalid.
    """
    if not args.data.is_dir():
        raise UserError(f"--data {args.data}: no such folder; expected the root of the data tree")
    loaded = load_config(args.cfg, args.overrides, CONFIG_DIR)
    return loaded, Workspace(args.data.resolve(), args.out.resolve())


def check_sizes(option: str, given: float | list[float] | None, sources: int) -> None:
    """Check an option that gives a size in nm, or one for each ``--source``.

    Raises:
        UserError: a size is impossible, or there are not as many as sources.
    """
    for value in given if isinstance(given, list) else [given]:
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"{option}: found {value}, expected nanometres above 0")
    if isinstance(given, list) and len(given) != sources:
        raise UserError(
            f"{option}: given {len(given)} times, expected once for each --source ({sources}), "
            "or never"
        )


def folder_name(option: str, name: str) -> str:
    """Check the name of a run or model, which must be that of one folder; raises UserError."""
    try:
        return check_run_name(name)
    except ValueError as error:
        raise UserError(f"{option} {name}: {str(error).partition(': ')[2]}") from None
