"""The terminal that progress is shown on."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

# Seconds after which a line says what the wait is for.
DELAY = 1.0


@functools.cache
def console() -> "Console":
    """One console on stderr for all, so that the bar of a sweep can stand below that of the run it belongs to."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def is_watched() -> bool:
    """Whether somebody looks on: at a terminal or in a notebook."""
    return console().is_terminal or console().is_jupyter


class _Silence:
    """Counts the callers that have silenced the line. It is shown only while the count is 0."""

    count = 0


@contextmanager
def silence() -> Iterator[None]:
    """No line says what the wait is for: whoever calls has a bar of its own on the terminal, or wants none."""
    _Silence.count += 1
    try:
        yield
    finally:
        _Silence.count -= 1


def hush() -> None:
    """From now on no line says what the wait is for: a command has bars of its own."""
    _Silence.count += 1


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """A line on the terminal or in the notebook while it takes more than a second, and none once it is done."""
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
                # A notebook knows the return to the start of the line, and no code that clears it.
                _write(f"\r{' ' * len(line)}\r")


def _write(text: str) -> None:
    stream = console().file
    stream.write(text)
    stream.flush()
