"""What the commands share: their arguments and the device."""

import argparse
import ctypes
from pathlib import Path

import torch

from utils.config.load import LoadedConfig, load_config
from utils.config.schema import check_run_name
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace
from utils.runtime.distributed import local_rank

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


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


def choose_device(name: str, if_cuda: bool = True) -> torch.device:
    """The device by its name; ``auto`` takes a GPU where there is one and ``if_cuda`` allows.

    Raises:
        UserError: the device asked for is not there.
    """
    present = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind in present if present[kind] and (if_cuda or kind == "cpu"))
    if not present[name]:
        raise UserError(f"--device {name}: this machine has none; use --device cpu or auto")
    if name == "cpu":
        keep_freed_memory()
    if name == "cuda":
        torch.cuda.set_device(local_rank())
        return torch.device(name, local_rank())
    return torch.device(name)


def keep_freed_memory() -> None:
    """Keep freed memory in the process instead of handing it back (glibc; elsewhere nothing).

    Each step frees and takes the same gigabytes; faulting the pages in again and again costs a
    tenth of the time, and half of it on a busy virtual machine.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    except (OSError, AttributeError):
        return
