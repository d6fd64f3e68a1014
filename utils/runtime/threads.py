"""Reading ahead and writing behind, each in a thread of its own."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[Result]:
    """``map(function, items)``, up to ``depth`` results made before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def behind(function: Callable[..., None], depth: int = 2) -> Iterator[Callable[..., None]]:
    """A function that returns before it has worked; all is done when the context ends.

    Holds the arguments of at most ``depth`` calls; what a call raises, a later one raises, or the
    context's end.
    """
    with ThreadPoolExecutor(1) as pool:
        waiting = deque()

        def submit(*arguments) -> None:
            if len(waiting) >= depth:
                waiting.popleft().result()
            waiting.append(pool.submit(function, *arguments))

        yield submit
        while waiting:
            waiting.popleft().result()
