"""The commands answer --help, and data are prepared, without the libraries that take seconds."""

import subprocess
import sys

import pytest

from utils.paths import ROOT

SLOW = {"torch", "albumentations", "cv2", "scipy", "sklearn", "h5py"}
COMMANDS = sorted(
    path.stem for path in (ROOT / "scripts").glob("*.py") if path.stem != "project_root"
)


def imported(*arguments: str) -> tuple[set[str], str]:
    """The modules that a Python process imports, and what it prints."""
    finished = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return {
        line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()
    }, finished.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_slow_library(command: str) -> None:
    modules, out = imported(f"scripts/{command}.py", "--help")
    assert out.startswith(f"usage: {command}.py")
    assert "argparse" in modules
    assert not SLOW & modules


def test_preparing_data_needs_no_torch() -> None:
    modules, _ = imported("-c", "import dataloader.published.preparation")
    assert "numpy" in modules
    assert "torch" not in modules
