"""Makes the packages importable from any working directory; each command imports it first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
