"""What the commands share: their arguments, the device, the volumes a config names."""

import argparse
import ctypes
import sys
from pathlib import Path

import torch

from dataloader.opening import find_volume, open_volume
from dataloader.volume import Volume
from utils.config import DataSettings, LoadedConfig, check_run_name, load_config
from utils.errors import UserError
from utils.paths import CONFIG_DIR, ROOT, Workspace

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def base_parser(description: str) -> argparse.ArgumentParser:
    """A parser with the arguments every command has."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.add_argument(
        "-c", "--cfg", required=True, help="a config's name (vnc2lucchi1) or path to a YAML file"
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


def open_images(workspace: Workspace, data: DataSettings, role: str, keep: bool = True) -> Volume:
    """The sections of ``source``, ``target`` or ``val``, at the working pixel size.

    Args:
        keep: a folder's sections in memory.

    Raises:
        UserError: the config names none, or nothing readable is there.
    """
    key = {"source": "data_dir_img", "target": "data_dir_target", "val": "data_dir_val"}[role]
    path = getattr(data, key)
    if path is None:
        raise UserError(f"DATA.{key}: missing; expected a folder of sections or an HDF5 file")
    return _open(workspace, data, role, key, path, masks=False, keep=keep)


def open_labels(
    workspace: Workspace,
    data: DataSettings,
    role: str,
    working: bool = True,
    keep: bool = True,
) -> Volume | None:
    """The masks of ``source`` or ``val``; None where the validation volume has none.

    Args:
        working: at the working pixel size; else on their own grid.
        keep: a folder's sections in memory.

    Raises:
        UserError: the source's are not there, or not readable.
    """
    key = {"source": "data_dir_label", "val": "data_dir_val_label"}[role]
    path = getattr(data, key)
    if role == "val" and (path is None or find_volume(workspace.data_path(path)) is None):
        return None
    return _open(workspace, data, role, key, path, masks=True, working=working, keep=keep)


def _open(
    workspace: Workspace,
    data: DataSettings,
    role: str,
    key: str,
    path: Path,
    masks: bool,
    keep: bool,
    working: bool = True,
) -> Volume:
    names = {"source": data.data_list, "target": data.data_list_target, "val": data.data_list_val}
    list_file = names[role] and workspace.data_path(names[role])
    if list_file and not list_file.is_file():
        print(f"warning: {list_file}: no such list of sections; all are used", file=sys.stderr)
    scale = data.scale("source" if role == "source" else "target") if working else 1.0
    try:
        return open_volume(workspace.data_path(path), list_file, scale, masks, keep)
    except UserError as error:
        raise UserError(f"DATA.{key}: {error}") from None
