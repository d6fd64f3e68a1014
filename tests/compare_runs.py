"""Whether a change of the code leaves short seeded runs equal to the last bit.

    python tests/compare_runs.py --save /tmp/before.json       at the revision before the change
    python tests/compare_runs.py --against /tmp/before.json    after it; exit code 1: a hash differs

Each case trains on small synthetic volumes and predicts one, by the commands alone, in float32 on
one thread of the CPU. Hashes are equal on the same machine with the same PyTorch only.
``--root DIR`` runs the commands of another checkout, as of a `git worktree` of the start.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (8, 80, 80)
CONFIG = {
    "NAME": "published",
    "MODEL": {"width": 8},
    "TRAIN": {
        "total_iters": 12,
        "batch_size": 2,
        "rampup_iters": 6,
        "learning_rate": 1e-3,
        "precision": "float32",
        "compile": False,
        "display_freq": 4,
        "show_freq": 0,
        "valid_freq": 6,
        "save_freq": 6,
        "num_workers": 0,
        "random_seed": 7,
    },
    "DATA": {
        "data_dir_img": "source",
        "data_dir_label": "source_labels",
        "data_dir_target": "target",
        "target_stride": 2,
        "input_size": 64,
        "data_dir_val": "val",
        "data_dir_val_label": "val_labels",
        "pixel_size_source": 10,
        "pixel_size_target": 10,
        "section_spacing_target": 10,
    },
    "TEST": {"precision": "float32", "padded_size": 96, "windows": "section"},
}
NO_DISCRIMINATORS = ("TRAIN.weight_adv_spatial=0", "TRAIN.weight_adv_temporal=0")
PLUS = (
    *NO_DISCRIMINATORS,
    *("BEYOND.head_prior=0.06", "BEYOND.warmup_fraction=0.4"),
    *("BEYOND.rounds=2", "BEYOND.orthoplane=true", "BEYOND.histogram_matching=true"),
)
CASES = {
    "published": ("TRAIN.cross_loss_source=true",),
    "published_tiles": ("TEST.windows=tile", "TEST.tile=64", "TEST.tile_step=32"),
    "plus": (*PLUS, "TEST.z_average=30"),
    "source_only": (*NO_DISCRIMINATORS, "TRAIN.weight_cross=0", "TEST.flips=true"),
}


def main() -> int:
    """Run the cases; save or compare their hashes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--save", type=Path, metavar="FILE")
    task.add_argument("--against", type=Path, metavar="FILE")
    parser.add_argument("--root", type=Path, default=ROOT, help="checkout to run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {name: hashes(args.root, Path(folder), name) for name in CASES}
    if args.save:
        args.save.write_text(json.dumps(found, indent=1) + "\n")
        return 0
    expected = json.loads(args.against.read_text())
    differing = 0
    for name, values in expected.items():
        for key, value in values.items():
            same = found.get(name, {}).get(key) == value
            differing += not same
            print(f"{'equal' if same else 'DIFFERS':8} {name} {key}")
    return int(differing > 0)


def hashes(root: Path, folder: Path, name: str) -> dict[str, str]:
    """SHA-256 of what a case leaves: weights, labels of rounds, logged losses, probabilities."""
    data = folder / "data"
    if not data.exists():
        make_volumes(data)
    config = folder / "published.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    options = [part for override in CASES[name] for part in ("--set", override)]
    places = ["-c", config, "--data", data, "--out", folder, "--device", "cpu"]
    run(root, "main", "--run-name", name, *places, *options)
    run(root, "inference", "-mn", name, *places, *options)
    models, found = folder / "models" / name, {}
    for file in sorted(models.glob("*.ckpt")):
        if file.stem.startswith("training_state"):
            continue
        weights = torch.load(file, weights_only=True)["model_weights"]
        found[file.name] = digest(*(weights[key].numpy() for key in sorted(weights)))
    for file in sorted(models.glob("*.hdf")):
        found[file.name] = digest(h5py.File(file)["main"][()])
    found["probabilities"] = digest(
        h5py.File(folder / "inference" / name / "preds.hdf")["main"][()]
    )
    found["loss.txt"] = hashlib.sha256(
        (folder / "logs" / name / "loss.txt").read_bytes()
    ).hexdigest()
    return found


def run(root: Path, script: str, *arguments: object) -> None:
    """A command of a checkout, on one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, root / "scripts" / f"{script}.py", *arguments]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script} {arguments}:\n{done.stdout}{done.stderr}")


def digest(*arrays: np.ndarray) -> str:
    """SHA-256 of arrays' bytes."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def make_volumes(folder: Path) -> None:
    """Dark ellipsoids on grey noise, in three volumes of PNG sections, with their masks."""
    z, y, x = np.indices(SHAPE)
    for seed, name in enumerate(("source", "target", "val")):
        rng = np.random.default_rng(seed)
        labels = np.zeros(SHAPE, bool)
        for _ in range(6):
            centre, radii = rng.uniform(0, SHAPE), rng.uniform((3, 6, 6), (6, 14, 14))
            parts = zip((z, y, x), centre, radii, strict=True)
            labels |= sum(((axis - c) / r) ** 2 for axis, c, r in parts) < 1
        images = np.clip(150 + 20 * seed - 70 * labels + 25 * rng.standard_normal(SHAPE), 0, 255)
        for suffix, volume in (("", images), ("_labels", 255 * labels)):
            (folder / f"{name}{suffix}").mkdir(parents=True)
            for index, section in enumerate(volume.astype(np.uint8)):
                cv2.imwrite(str(folder / f"{name}{suffix}" / f"{index:03d}.png"), section)


if __name__ == "__main__":
    sys.exit(main())
