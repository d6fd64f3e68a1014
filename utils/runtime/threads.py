"""Reading ahead and writing behind, each in a thread of its own."""

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
    """``map(function, items)``, up to ``limit`` results made before they are asked for."""
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
    """A function that returns before it has worked; all is done when the context ends.

    Holds the arguments of at most ``limit`` calls; what a call raises, a later one raises, or the
    context's end.
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
