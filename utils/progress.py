"""Progress bars."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def progress(items: Iterable | None, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """A progress bar with speed and remaining time, shown only in a terminal.

    Args:
        items: to iterate over; None: the caller updates the bar.
        total: number of items; None if unknown.
        unit: name of an item; ``B`` (bytes) is scaled to kB, MB and GB.
        initial: number of items done before.
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
