"""The progress of a sweep: a bar on a terminal, and a line each minute in the log of a batch job."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dlnjax._terminal import console, is_watched, progress_bar, silence

# The least time between two lines of progress in the log of a batch job.
_SECONDS_BETWEEN_LINES = 60.0


@contextmanager
def show_progress(
    n: int, show: bool, done: int, what: str = "seeds"
) -> Iterator[tuple[Callable[[bool], None], Callable[[int], None]]]:
    """Show the progress: (a callable that says whether a program is being compiled, one for each number of seeds done).

    `what` says what is counted, if it is not seeds.
    """
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    columns = "{task.description}", MofNCompleteColumn, TimeRemainingColumn, "left"
    log = _Log(n, done, what) if show and not is_watched() else None
    with silence(), progress_bar(*columns, disable=not show or not is_watched()) as bar:
        task = bar.add_task("compiling", total=n, completed=done)

        def advance(count: int) -> None:
            bar.advance(task, count)
            if log is not None:
                log.advance(count)

        yield lambda compiling: bar.update(task, description="compiling" if compiling else what), advance


class _Log:
    """The progress of a sweep in the log of a batch job: a line each minute, and none in the first minute."""

    def __init__(self, n: int, done: int, what: str):
        self.n, self.first, self.done, self.what = n, done, done, what
        self.began = self.said = time.monotonic()

    def advance(self, count: int) -> None:
        self.done += count
        now = time.monotonic()
        if now - self.said >= _SECONDS_BETWEEN_LINES:
            self.said = now
            left = (self.n - self.done) * (now - self.began) / (self.done - self.first)
            line = (
                f"dlnjax: {self.done} of {self.n} {self.what} after {now - self.began:.0f} s, about {left:.0f} s left"
            )
            console().print(line, markup=False, soft_wrap=True)
