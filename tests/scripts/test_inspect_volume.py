"""inspect_volume.py speaks to programs and to people."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.dataloader.foreign_files import SHAPE, V, hdf5
from utils.paths import ROOT


def inspect(*arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / "inspect_volume.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_inspect_volume_speaks_to_programs_and_people(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "v.h5", V, resolution=[40, 4, 4], units="nm")
    facts = json.loads(inspect(path, "--json").stdout)
    assert facts["format"] == "hdf5"
    assert facts["shape"] == list(SHAPE)
    assert facts["dtype"] == "uint8"
    assert facts["voxel_size_nm"] == [40, 4, 4]
    assert facts["voxel_size_from"] == "attribute resolution"
    assert facts["warnings"] == []
    assert facts["section_means"] == pytest.approx(V.mean((1, 2)).tolist())
    spoken = inspect(path, "--picture", tmp_path / "sheet.png")
    assert not spoken.stderr
    text = spoken.stdout
    assert "40 x 4 x 4 nm (z, y, x)" in text
    assert "from the attribute resolution" in text
    assert max(len(line) for line in text.splitlines()[1:-1]) <= 80
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
    refused = inspect(tmp_path / "nothing.tif", "--json")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
