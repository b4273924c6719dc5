"""The project's one matplotlib style, and figures that belong to no window."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def style() -> AbstractContextManager[None]:
    """A context in which matplotlib draws in the project's style: `with dlnjax.plot.style(): ...`."""
    return matplotlib.style.context(Path(__file__).with_name("dlnjax.mplstyle"))


def new_figure(width: float = 3.4, height: float = 2.6) -> Figure:
    """An empty figure, sizes in inches; 3.4 is a column of print."""
    return Figure(figsize=(width, height), layout="constrained")


def new_axes(ax: Axes | None) -> Axes:
    """`ax`, or the axes of a new figure in the project's style (in a notebook, one that shows itself)."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots()[1]


def save(figure: Figure, stem: Any) -> None:
    """Write `stem`.png and `stem`.svg, free of dates."""
    figure.savefig(f"{stem}.png", metadata={"Software": None})
    figure.savefig(f"{stem}.svg", metadata={"Date": None})
