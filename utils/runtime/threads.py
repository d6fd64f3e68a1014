"""Prefetch results and write in the background, each in one thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], limit: int = 2
) -> Iterator[Result]:
    """``map(function, items)`` with up to ``limit`` results computed ahead."""
    with ThreadPoolExecutor(1) as pool:
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
