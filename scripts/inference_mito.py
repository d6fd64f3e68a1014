"""The published name of inference.py for the MitoEM volumes, with its published defaults."""

from functools import partial

import inference
from utils.errors import run_command

main = partial(inference.main, "mitor2h", "map_2d")

if __name__ == "__main__":
    run_command(main)
