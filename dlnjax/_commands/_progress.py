"""The progress of a run of several figures: a bar on a terminal, plain lines elsewhere, and the time left."""

import functools
import time
from collections.abc import Mapping
from typing import Self

from rich.markup import escape
from rich.progress import MofNCompleteColumn, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from dlnjax._terminal import console, progress_bar

# On a narrower terminal the time left is a number without words.
NARROW = 60
# The names of the figures that are being made are shown up to so many characters together, and else their number.
LONGEST = 16


class RunProgress:
    """A context manager whose `begin` and `end` are called for each figure.

    **Arguments:** `foreseen`, the seconds that each figure takes on some machine, by its name; `titles`, the title of
    each figure, by its name; `workers`, the number of figures that are made at once. The time left is the sum of the
    seconds foreseen for the figures to come, times the ratio of the seconds spent to those foreseen for the figures
    that are done, shared among the workers. It is at least the time left of each figure that is being made.
    """

    def __init__(self, foreseen: Mapping[str, float], titles: Mapping[str, str], workers: int = 1):
        self.left, self.titles, self.workers = dict(foreseen), titles, workers
        self.began: dict[str, float] = {}
        self.spent = self.expected = 0.0
        columns = "[bold]{task.description}", MofNCompleteColumn, functools.partial(_TimeLeft, self)
        self.bar = progress_bar(*columns, disable=not console().is_terminal)
        self.task = self.bar.add_task("", total=len(foreseen))

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        self.bar.stop()

    def begin(self, name: str) -> None:
        self.began[name] = time.perf_counter()
        self._describe()
        if self.bar.disable and self.workers == 1:
            self._say(f"{name}  {self.titles[name]}")

    def end(self, name: str, kept: bool) -> None:
        took, foreseen = time.perf_counter() - self.began.pop(name), self.left.pop(name)
        if not kept:
            self.spent, self.expected = self.spent + took, self.expected + foreseen
        self.bar.advance(self.task)
        self._describe()
        how = "taken up" if kept else duration(took)
        if self.bar.disable:
            # The lines of a figure stay together where others are made beside it.
            if self.workers > 1:
                self._say(f"{name}  {self.titles[name]}")
            self._say(f"      {how}; {len(self.left)} to go{self.estimate()}")
        else:
            console().print(f"[bold]{name}[/bold]  {escape(self.titles[name])}  [dim]{how}[/dim]")

    def estimate(self) -> str:
        """The time left in words.

        It is empty before the first figure is done, as the speed of the machine is unknown.
        """
        if not self.expected or not self.left:
            return ""
        pace, now = self.spent / self.expected, time.perf_counter()
        left = [max(pace * t - (now - self.began.get(name, now)), 0.0) for name, t in self.left.items()]
        return f", about {duration(max(sum(left) / self.workers, *left))} left"

    def _describe(self) -> None:
        names = ", ".join(self.began)
        self.bar.update(self.task, description=names if len(names) <= LONGEST else f"{len(self.began)} figures")

    def _say(self, line: str) -> None:
        console().print(line, markup=False, soft_wrap=True)


class _TimeLeft(ProgressColumn):
    def __init__(self, run: RunProgress, table_column: Column):
        self.run = run
        super().__init__(table_column)

    def render(self, task: Task) -> Text:
        left = self.run.estimate()
        return Text(left.removeprefix(", about ") if console().width < NARROW else f"figures{left}")


def duration(seconds: float) -> str:
    """A time in words: 8.3 s, 45 s or 2 min 10 s."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
