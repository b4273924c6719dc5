"""The terminal that progress is shown on."""

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def console() -> "Console":
    """One console on stderr for all, so that the bar of a sweep can stand below that of the run it belongs to."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)
