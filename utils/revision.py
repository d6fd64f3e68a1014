"""The git revision of the code."""

import subprocess

from utils.paths import ROOT


def git_revision() -> str:
    """The commit, with ``-dirty`` if files are modified; ``unknown`` outside git."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
