"""The terminal, on which bars show progress, and a line says what a user waits for."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

# The columns of a bar, where the terminal has room for it.
WIDEST = 40

# The line is shown after this many seconds.
DELAY = 1.0


@functools.cache
def console() -> "Console":
    """The one console, on stderr. All bars share it, so that the bar of a sweep can stand below the bar of its run."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def is_watched() -> bool:
    """Whether the output goes to a terminal or a notebook, where somebody can watch it."""
    return console().is_terminal or console().is_jupyter


def progress_bar(first: str, *others: "str | Callable[..., ProgressColumn]", disable: bool) -> "Progress":
    """A bar of rich after the first column, which is gone at the end. On a narrow terminal it gives way to the columns.

    **Arguments:** `others`, texts, and callables that make a column from a `table_column`.
    """
    from rich.progress import BarColumn, Progress
    from rich.table import Column

    bar = BarColumn(bar_width=None, table_column=Column(max_width=WIDEST))
    whole = [column if isinstance(column, str) else column(table_column=Column(no_wrap=True)) for column in others]
    return Progress(first, bar, *whole, console=console(), transient=True, disable=disable)


class _Silence:
    """The number of callers that have silenced the line. The line is shown only while this number is 0."""

    count = 0


@contextmanager
def silence() -> Iterator[None]:
    """Show no line inside of this context. A caller has a bar of its own on the terminal, or shows a line already."""
    _Silence.count += 1
    try:
        yield
    finally:
        _Silence.count -= 1


def hush() -> None:
    """Show no line from now on. A command calls this, as it has bars of its own."""
    _Silence.count += 1


def _text(what: str) -> str:
    return f"dlnjax: {what} ..."


class _Line:
    """The line that says what a user waits for. It is shown `DELAY` seconds after the wait has begun."""

    def __init__(self, what: str):
        self.first, self.text = what, _text(what)
        self.shown, self.lock = "", threading.Lock()
        self.timer = threading.Timer(DELAY, self.show)
        self.timer.daemon = True
        self.timer.start()

    def show(self) -> None:
        with self.lock:
            self._replace(self.text)

    def say(self, what: str) -> None:
        with self.lock:
            self.text = _text(what)
            if self.shown:
                self._replace(self.text)

    def remove(self) -> None:
        self.timer.cancel()
        self.timer.join()
        with self.lock:
            self._replace("")

    def _replace(self, text: str) -> None:
        if text == self.shown:
            return
        # A notebook does not know the code that clears a line, so the line is overwritten by blanks.
        erase = f"\r{' ' * len(self.shown)}\r" if self.shown else ""
        stream = console().file
        stream.write(erase + text)
        stream.flush()
        self.shown = text


# The one line, if any.
_lines: list[_Line] = []


@contextmanager
def waiting_for(what: str) -> Iterator[bool]:
    """Show a line on the terminal or in the notebook if the context takes more than a second, and remove it after.

    Inside of another such context, the line stays that of the other. The context has the value whether it made a line.
    """
    if _Silence.count or not is_watched():
        yield False
        return
    with silence():
        line = _Line(what)
        _lines.append(line)
        try:
            yield True
        finally:
            _lines.remove(line)
            line.remove()


def say(what: str | None) -> None:
    """Change the line, if there is one, to `what`, or with None back to what it said at first."""
    for line in _lines:
        line.say(line.first if what is None else what)
