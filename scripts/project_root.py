"""Makes the packages importable from wherever a command is started; imported first by each."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
