"""The revision of the checkout, to tell what made a result."""

import subprocess

from utils.paths import ROOT


def git_revision() -> str:
    """The checkout's commit, with ``-dirty`` where files are changed; ``unknown`` outside git."""
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
