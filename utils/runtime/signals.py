"""End a run at its next safe point after Ctrl-C or SIGTERM."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class StopRequested(Exception):
    """A signal asked the run to end."""


class Interrupted(Exception):
    """A run was interrupted after saving its state.

    Args:
        message: tells the user how to continue.
        signal_number: the signal. The exit code is 128 more, as in shells.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.code = 128 + signal_number


class StopSignal:
    """The first SIGINT or SIGTERM received, if any."""

    received: int | None = None

    def check(self, agreed: Callable[[bool], bool] = bool) -> None:
        """Raise ``StopRequested`` if a signal was received.

        Args:
            agreed: combines the answers of all processes, so that all stop at the same point.
        """
        if agreed(self.received is not None):
            raise StopRequested


@contextmanager
def awaited_signals() -> Iterator[StopSignal]:
    """Record the first SIGINT or SIGTERM instead of exiting; the second has its usual effect."""
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
