"""How far a long job is."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(items: Iterable | None, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """A progress bar with speed and time left; none where there is no terminal.

    Args:
        items: to run through; None: the caller updates the bar.
        total: how many there will be; None: nobody knows.
        unit: name of one; ``B``, bytes, are counted in kB, MB and GB.
        initial: done before.
    """
    return tqdm(
        items,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )
