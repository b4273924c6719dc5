"""The matplotlib style of the project, and figures and axes in this style."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure


@contextmanager
def style() -> Iterator[None]:
    """Let matplotlib draw in the style of the project: `with dlnjax.plot.style(): ...`, or `@dlnjax.plot.style()`.

    For a whole script or notebook use `plt.style.use("dlnjax.plot.dlnjax")`.

    **Example:**

        >>> with dln.plot.style():
        ...     figure = dln.plot.new_figure()
    """
    with matplotlib.style.context(Path(__file__).with_name("dlnjax.mplstyle")):
        try:
            yield
        finally:
            # The first figure of a notebook turns interactive drawing on. The context of the style resets this at its
            # end, and no later figure would be shown. The setting is therefore restored below.
            interactive = matplotlib.is_interactive()
    matplotlib.interactive(interactive)


def new_figure(width: float = 3.4, height: float = 2.6) -> Figure:
    """An empty figure, with its size in inches. A column of a printed page is 3.4 inches wide.

    **Example:**

        >>> figure = dln.plot.new_figure(3.4, 2.0)
        >>> figure.get_size_inches().tolist()
        [3.4, 2.0]
    """
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure in the style of the project, which a notebook shows by itself.

    **Example:**

        >>> ax = dln.plot.new_axes(None)
        >>> dln.plot.new_axes(ax) is ax
        True
    """
    if ax is not None:
        if not isinstance(ax, Axes):
            raise TypeError(f"ax must be matplotlib axes, got {type(ax).__name__}.")
        return ax
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots()[1]


def ink(color: str, ax: Axes | None) -> str:
    """The colour as a hexadecimal number. For new axes, "C0" is a colour of the project's style.

    matplotlib itself looks "C0" up when a line is drawn, which may be after the context of the style has ended.
    """

    with style() if ax is None else nullcontext():
        return to_hex(color, keep_alpha=True)


def save(figure: Figure, stem: Any) -> None:
    """Write `stem`.png and `stem`.svg, without the dates that would make two runs differ.

    **Example:**

        >>> figure = dln.plot.new_figure()
        >>> line = figure.add_subplot().plot([1, 2, 4])
        >>> dln.plot.save(figure, "growth")
        >>> sorted(path.name for path in Path().glob("growth.*"))
        ['growth.png', 'growth.svg']
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"figure must be a matplotlib Figure, got {type(figure).__name__}. Of axes it is ax.figure.")
    figure.savefig(f"{stem}.png", metadata={"Software": None})
    figure.savefig(f"{stem}.svg", metadata={"Date": None})
