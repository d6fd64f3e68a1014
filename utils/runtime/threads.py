"""Prefetch results and write in the background, in threads."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """The CPU cores that this process may use, divided among the run's processes on the machine."""
    try:
        present = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        present = os.cpu_count() or 1
    return max(1, present // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], limit: int = 2, threads: int = 1
) -> Iterator[Result]:
    """``map(function, items)`` with up to ``limit`` results computed ahead."""
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def write_behind(function: Callable[..., None], limit: int = 2) -> Iterator[Callable[..., None]]:
    """Run calls of a function in the background; the context ends when all are done.

    At most ``limit`` calls are queued. An exception is raised by a later call or at the end of the
    context.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = deque()

        def submit(*arguments) -> None:
            if len(waiting) >= limit:
                waiting.popleft().result()
            waiting.append(pool.submit(function, *arguments))

        yield submit
        while waiting:
            waiting.popleft().result()


class Budget:
    """A number of units, such as bytes of memory, that threads share.

    Args:
        units: what may be taken at a time, except that one thread alone may take more.
    """

    def __init__(self, units: int) -> None:
        self.units, self._taken = units, 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, units: int) -> Iterator[None]:
        """Wait until ``units`` are free; they are taken within the context."""
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + units <= self.units)
            self._taken += units
        try:
            yield
        finally:
            with self._changed:
                self._taken -= units
                self._changed.notify_all()
