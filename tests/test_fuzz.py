"""A few hundred of the cases of tests/fuzz.py; `make fuzz` tries twenty thousand."""

import subprocess
import sys

from utils.paths import ROOT

CASES = 300


def test_damaged_files_are_read_or_refused_in_one_line() -> None:
    finished = subprocess.run(  # of its own: a library may crash, or ask for all memory
        [sys.executable, "-m", "tests.fuzz", "--cases", str(CASES)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{CASES} cases from seed 0, 0 finds" in finished.stdout
    kinds = {line.split()[1] for line in finished.stdout.splitlines()[:-1]}
    assert {"folder:", "hdf5:", "nifti:", "tiff-ome:", "checkpoint:", "config"} <= kinds
