"""Random damage to volumes, configs and checkpoints; a reader says one line, or reads.

``python -m tests.fuzz --cases 20000 --seed 1`` tries so many and prints what it found. Each case is
named by its seed and repeats with ``--seed N --cases 1``.
"""

import argparse
import contextlib
import faulthandler
import io
import logging
import random
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import yaml

from dataloader.formats.opening import open_volume
from dataloader.synthetic import write_sections
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, segmentor_from
from model.segmentor import Segmentor
from tests.volume_files import FORMATS, stack
from utils.config.load import load_config
from utils.errors import UserError
from utils.paths import CONFIG_DIR

MEMORY = 8 * 2**30  # bytes; a length that is not believed asks for more
LONGEST_LINE = 1000  # characters
LONGEST_CASE = 60  # seconds; most take some milliseconds


def main() -> None:
    """Try cases, print what went wrong with each and the counts; exit code 1 if anything did."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="of the first case")
    args = parser.parse_args()
    faulthandler.enable()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")  # of the libraries, about the damage
    logging.disable(logging.CRITICAL)
    counts, finds = Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        sound = samples(Path(folder))
        for seed in range(args.seed, args.seed + args.cases):
            draw = random.Random(seed)
            kind = draw.choice(sorted(sound))
            print(f"\rcase {seed} ", end="", file=sys.stderr, flush=True)  # the last, if it ends us
            faulthandler.dump_traceback_later(LONGEST_CASE, exit=True)
            try:
                counts[f"{kind}: {attempt(sound[kind], Path(folder) / 'trial', draw)}"] += 1
            except Exception:
                finds += 1
                print(f"case {seed} ({kind}):\n{traceback.format_exc()}", flush=True)
    faulthandler.cancel_dump_traceback_later()
    for name, count in sorted(counts.items()):
        print(f"{count:7d} {name}")
    print(f"{args.cases} cases from seed {args.seed}, {finds} finds")
    sys.exit(finds > 0)


def samples(folder: Path) -> dict[str, tuple[Path, Callable[[Path], None]]]:
    """A sound file or folder of each kind, and what reads it."""
    found = {}
    for name, (write, dtype, *_) in FORMATS.items():
        (folder / name).mkdir()
        found[name] = write(folder / name / "v", stack(dtype)), read_volume
    write_sections(folder / "folder", stack(np.uint8))
    found["folder"] = folder / "folder", read_volume
    for path in CONFIG_DIR.glob("*.yaml"):
        found[f"config {path.stem}"] = path, read_config
    checkpoint = folder / "model.ckpt"
    save_checkpoint(checkpoint, Checkpoint(Segmentor(width=2).state_dict(), 7))
    found["checkpoint"] = checkpoint, read_checkpoint
    return found


def attempt(
    sound: tuple[Path, Callable[[Path], None]], trial: Path, draw: random.Random
) -> str:  # fmt: skip
    """Damage a copy and read it: "read" or "refused"."""
    path, read = sound
    trial = trial.with_name("trial" + "".join(path.suffixes))
    if path.is_dir():
        shutil.copytree(path, trial)
        victim = draw.choice(sorted(p for p in trial.rglob("*") if p.is_file()))
    else:
        victim = Path(shutil.copy(path, trial))
    victim.write_bytes(damaged(victim.read_bytes(), draw))
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            read(trial)
    except UserError as error:
        line = str(error)
        assert "\n" not in line, line
        assert len(line) < LONGEST_LINE, line
        return "refused"
    finally:
        shutil.rmtree(trial) if trial.is_dir() else trial.unlink()
    return "read"


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bytes with one to four things done to them, more often near the start, where headers are."""
    content = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        length = len(content)
        place = int(length * draw.random() ** draw.choice((1, 3)))
        size = draw.choice((1, 1, 2, 4, 8, 64))
        match draw.choice(("flip", "flip", "random", "zero", "high", "cut", "drop", "double")):
            case "flip":
                content[place : place + 1] = bytes(
                    byte ^ (1 << draw.randrange(8)) for byte in content[place : place + 1]
                )
            case "random":
                content[place : place + size] = draw.randbytes(size)
            case "zero":
                content[place : place + size] = bytes(size)
            case "high":
                content[place : place + size] = b"\xff" * size
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + size]
            case "double":
                content[place:place] = content[place : place + size]
    return bytes(content)


def read_volume(path: Path) -> None:
    """All sections, of the shape that was promised."""
    volume = open_volume(path, keep=False)
    for index in range(min(len(volume), 20)):
        section = volume.section(index)
        assert section.shape == tuple(volume.shape[1:])
        assert section.dtype.kind in "uifb"
        volume.grey_range(index)
    assert all(side is None or side > 0 for side in volume.voxel_size or ())


def read_config(path: Path) -> None:
    """A config that can be written again."""
    config = load_config(str(path), [], CONFIG_DIR).config
    assert yaml.safe_load(config.to_yaml())["NAME"] == config.NAME


def read_checkpoint(path: Path) -> None:
    """A network that predicts numbers."""
    segmentor = segmentor_from(load_checkpoint(path), path)
    with torch.inference_mode():
        assert segmentor(torch.rand(1, 2, 16, 16)).current.isfinite().all()


if __name__ == "__main__":
    main()
