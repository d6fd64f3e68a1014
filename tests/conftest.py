"""What several tests need."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The golden numbers and real volumes beside the checkout, where they lie there."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"needs the golden numbers and volumes in {SHARED}, which is not there")
    return SHARED
