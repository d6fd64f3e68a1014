"""Makes the packages importable from wherever a command is started; imported first by each."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# Threads of PyTorch (GNU OpenMP) spin while they wait for each other. If another program holds one
# of their cores, they spin for nothing; the fewer turns, the less is lost (docs/performance.md).
# The library reads this once, when PyTorch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
