"""The project's one matplotlib style, and figures that belong to no window."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the project's style: `with dlnjax.plot.style(): ...`.

    **Example:**

        >>> with dln.plot.style():
        ...     figure = dln.plot.new_figure()
    """
    return matplotlib.style.context(Path(__file__).with_name("dlnjax.mplstyle"))


def new_figure(width: float = 3.4, height: float = 2.6) -> Figure:
    """An empty figure, sizes in inches; 3.4 is a column of print.

    **Example:**

        >>> figure = dln.plot.new_figure(3.4, 2.0)
        >>> figure.get_size_inches().tolist()
        [3.4, 2.0]
    """
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure in the project's style (in a notebook, one that shows itself).

    **Example:**

        >>> ax = dln.plot.new_axes(None)
        >>> dln.plot.new_axes(ax) is ax
        True
    """
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots()[1]


def save(figure: Figure, stem: Any) -> None:
    """Write `stem`.png and `stem`.svg, free of dates.

    **Example:**

        >>> figure = dln.plot.new_figure()
        >>> line = figure.add_subplot().plot([1, 2, 4])
        >>> dln.plot.save(figure, "growth")
        >>> sorted(path.name for path in Path().glob("growth.*"))
        ['growth.png', 'growth.svg']
    """
    figure.savefig(f"{stem}.png", metadata={"Software": None})
    figure.savefig(f"{stem}.svg", metadata={"Date": None})
