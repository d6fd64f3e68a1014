"""Progress bars: one for a loop, or one for each stage of a command."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Protocol, Self

from tqdm import tqdm

PRIOR = 20.0  # seconds for which the estimates count against what is measured
LINE_EVERY = 10.0  # seconds between lines where there is no terminal, at least
STAGE_FORMAT = "{desc:<8} |{bar}| {percentage:3.0f}%{postfix}"


class Progress(Protocol):
    """What ``progress`` returns; ``disable``: whether nothing is shown."""

    disable: bool

    def __iter__(self) -> Iterator: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def update(self, n: int = 1) -> object: ...
    def set_description(self, desc: str) -> None: ...
    def set_postfix_str(self, s: str) -> None: ...
    def close(self) -> None: ...


def progress(items: Iterable | None, total: int | None, unit: str, initial: int = 0) -> Progress:
    """A progress bar with speed and remaining time, shown only in a terminal.

    Within a stage of ``Stages`` the items move the bar of the stage instead.

    Args:
        items: to iterate over; None: the caller updates the bar.
        total: number of items; None if unknown.
        unit: name of an item; ``B`` (bytes) is scaled to kB, MB and GB.
        initial: number of items done before.
    """
    stages = _shown.get()
    if stages is not None and stages.current is not None:
        return _Part(stages, items, unit, initial)
    return tqdm(
        items,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        dynamic_ncols=True,
        disable=not sys.stderr.isatty(),
    )


class Stage(NamedTuple):
    """A stage of a command, and how long it takes.

    Attributes:
        name: shown before its bar.
        seconds: of the whole stage, estimated.
        of_item: seconds of an item, by the units of ``progress``.
        earlier: seconds of it that an earlier command has done.
    """

    name: str
    seconds: float
    of_item: dict[str, float] = {}  # noqa: RUF012 - never changed
    earlier: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that it takes now."""
        return self.seconds - self.earlier


class Stages:
    """Shows a bar for each stage of a command, with the time left over all stages.

    The time left follows from the estimates, corrected by what the work so far has taken. Where
    there is no terminal, lines take the place of the bars.

    Args:
        stages: in the order in which they come.
        say: prints a line.
    """

    def __init__(self, stages: list[Stage], say: Callable[[str], None] = print) -> None:
        self.stages, self.say = stages, say
        self.current: Stage | None = None
        self.finished = self.measured = self.taken = 0.0  # seconds, the first two as estimated

    def __enter__(self) -> Self:
        self._token = _shown.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _shown.reset(self._token)

    @contextmanager
    def run(self, name: str) -> Iterator[None]:
        """Show a stage while it runs."""
        self.current = next(stage for stage in self.stages if stage.name == name)
        self.done, self.began, self.first = 0.0, time.perf_counter(), None
        self.said = (self.began, 0)
        self.bar = tqdm(
            total=1.0,
            desc=name,
            bar_format=STAGE_FORMAT,
            dynamic_ncols=True,
            disable=not sys.stderr.isatty(),
        )
        try:
            self._show()
            self.bar.refresh()
            yield
            self._finish()
        finally:
            self.bar.close()
            self.current = None

    def advance(self, unit: str, count: int, earlier: bool = False) -> None:
        """Count items of the current stage.

        Args:
            unit: of ``progress``.
            count: of items.
            earlier: done before this command; they say nothing about the pace.
        """
        work = self.current.of_item.get(unit, 0.0) * count
        self.done = min(self.current.seconds, self.done + work)
        if earlier:
            pass
        elif self.first is None:  # it includes what is done once: compiling, opening files
            self.first = time.perf_counter()
        else:
            self.measured += work
        self._show()

    def left(self) -> float:
        """Seconds left over all stages."""
        running = time.perf_counter() - self.first if self.current and self.first else 0.0
        pace = (self.taken + running + PRIOR) / (self.measured + PRIOR)
        done = self.finished + (self.done if self.current else 0.0)
        return max(0.0, sum(stage.seconds for stage in self.stages) - done) * pace

    def _show(self) -> None:
        share = self.done / self.current.seconds if self.current.seconds else 0.0
        if not self.bar.disable:
            self.bar.set_postfix_str(f"{about(self.left())} left in all", refresh=False)
            self.bar.update(share - self.bar.n)
            return
        tenth, now = int(10 * share), time.perf_counter()
        if tenth > self.said[1] and now - self.said[0] >= LINE_EVERY:
            self.said = now, tenth
            self.say(f"{self.current.name}: {10 * tenth}%, {about(self.left())} left in all")

    def _finish(self) -> None:
        now = time.perf_counter()
        self.taken += now - self.first if self.first else 0.0
        self.finished += self.current.seconds
        duration = about(now - self.began).removeprefix("about ")
        if self.bar.disable:
            self.say(f"{self.current.name}: done in {duration}")
        else:
            self.bar.set_postfix_str(duration, refresh=False)
            self.bar.n = 1.0
            self.bar.refresh()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark a stage of work; shown in a command that shows its stages."""
    stages = _shown.get()
    if stages is None:
        yield
        return
    with stages.run(name):
        yield


def say(line: str) -> None:
    """Print a line, above the bars."""
    tqdm.write(line, file=sys.stdout)


def about(seconds: float) -> str:
    """A duration to two digits, such as "about 12 min"."""
    if seconds < 60:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"about {minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 10:
        return f"about {hours} h {minutes} min" if minutes else f"about {hours} h"
    return f"about {hours + (minutes >= 30)} h"


_shown: ContextVar[Stages | None] = ContextVar("stages", default=None)


class _Part:
    """A loop within a stage: its items move the bar of the stage."""

    disable = False  # the stage shows it

    def __init__(self, stages: Stages, items: Iterable | None, unit: str, initial: int) -> None:
        self.stages, self.items, self.unit = stages, items, unit
        if initial:
            stages.advance(unit, initial, earlier=True)

    def __iter__(self) -> Iterator:
        for item in self.items:
            yield item
            self.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, n: int = 1) -> None:
        self.stages.advance(self.unit, n)

    def set_description(self, desc: str) -> None:
        pass

    def set_postfix_str(self, s: str) -> None:
        pass

    def close(self) -> None:
        pass
