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


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show a line on the terminal or in the notebook if the context takes more than a second, and remove it after."""
    if _Silence.count or not is_watched():
        yield
        return
    with silence():
        line = f"dlnjax: {what} ..."
        shown = threading.Event()

        def show() -> None:
            shown.set()
            _write(line)

        timer = threading.Timer(DELAY, show)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()
            if shown.is_set():
                # A notebook does not know the code that clears a line, so the line is overwritten by blanks.
                _write(f"\r{' ' * len(line)}\r")


def _write(text: str) -> None:
    stream = console().file
    stream.write(text)
    stream.flush()
