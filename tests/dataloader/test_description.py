"""Descriptions of volumes and labels."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataloader.description import describe_volume
from tests.dataloader.foreign_files import SHAPE, hdf5, mrc
from utils.errors import UserError
from utils.paths import ROOT


def test_labels_are_described(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.int32)
    labels[:, 2:8, 2:8], labels[:, 12:20, 12:20], labels[:, :, 24:] = 3, 9, -1
    facts = describe_volume(hdf5(tmp_path / "l.h5", labels), labels=True)
    assert facts.labels == ("instances", 100 / (24 * 32), 8 / 32, 2)
    assert any("-1 is ignored" in line for line in facts.warnings)
    assert "objects       2" in facts.as_text()
    mask = (labels > 0).astype(np.uint8)
    assert describe_volume(hdf5(tmp_path / "m.h5", mask), labels=True).labels.objects == 2


def test_repeated_sections_and_odd_sizes_are_in_the_description(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.int16)
    array[3] = array[2]
    facts = describe_volume(mrc(tmp_path / "v.mrc", array, (1, 1, 1)))
    assert facts.as_json()["voxel_size_nm"] is None
    assert any("0.1 nm" in line for line in facts.warnings)
    assert any("section 3" in line and "the same" in line for line in facts.warnings)


SHARED_CASES = ROOT.parent / "shared" / "cases" / "make_cases.py"


@pytest.mark.skipif(not SHARED_CASES.is_file(), reason="no collection of cases beside the project")
def test_collection_of_cases(tmp_path: Path) -> None:
    out = tmp_path / "cases"
    subprocess.run([sys.executable, SHARED_CASES, out], check=True, capture_output=True)
    for name, case in json.loads((out / "expected.json").read_text()).items():
        lists = Path(case["list"]) if "list" in case else None
        if case.get("refused"):
            with pytest.raises(UserError) as refused:
                describe_volume(Path(case["path"]), lists, case["labels"])
            assert all(word in str(refused.value) for word in case["says"]), name
            continue
        facts = describe_volume(Path(case["path"]), lists, case["labels"]).as_json()
        assert facts["shape"] == case["shape"], name
        sizes = [facts["voxel_size_nm"] or [None] * 3, case.get("voxel_size_nm") or [None] * 3]
        for side, expected in zip(*sizes, strict=True) if "voxel_size_nm" in case else ():
            assert side == (expected and pytest.approx(expected, rel=1e-5)), name
        for key in case.keys() & {"section_means", "mitochondria", "ignored"}:
            assert facts[key] == pytest.approx(case[key], abs=1e-6), name
        for word in case.get("warns", ()):
            assert any(word in line for line in facts["warnings"]), name
