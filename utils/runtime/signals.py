"""Ctrl-C and a cluster's pre-emption end a run at its next safe place."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequested(Exception):
    """A signal asked the run to end."""


class Interrupted(Exception):
    """A run that ended before its time, its state saved.

    Args:
        message: for the user, with how to go on.
        signal_number: of what ended it; the exit code is 128 more, as shells have it.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = 128 + signal_number


class StopSignal:
    """The first SIGINT or SIGTERM since it was set up, if any."""

    received: int | None = None

    def check(self, agreed: Callable[[bool], bool] = bool) -> None:
        """Raise ``StopRequested`` if there was one.

        Args:
            agreed: asks other processes as well, so that all stop at the same place.
        """
        if agreed(self.received is not None):
            raise StopRequested


@contextmanager
def awaited_signals() -> Iterator[StopSignal]:
    """Note SIGINT and SIGTERM instead of dying of them; the second has its usual effect."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame) -> None:
        stop.received = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()
