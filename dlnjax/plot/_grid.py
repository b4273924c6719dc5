"""Pictures of a sweep over a grid, whose dataset has the axes of the grid as dimensions."""

from typing import Any, TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from dlnjax.plot._data import at_time, flows_of, OWN, results_of, say_failures
from dlnjax.plot._style import new_axes

if TYPE_CHECKING:
    import xarray

# The darkest and the lightest part of the colour map that are read well on white paper.
_DARKEST, _LIGHTEST = 0.0, 0.85
# Above this brightness of a cell, its number is written in black.
_BRIGHT = 0.55


def axes_of_grid(values: Any) -> list[str]:
    """The axes of the grid of an array of a dataset: all dimensions that are not those of a sweep."""
    return [str(name) for name in values.dims if name not in OWN]


def require_axes(values: Any, wanted: tuple[str, ...]) -> None:
    """An error if the array has not exactly these axes of a grid."""
    axes = axes_of_grid(values)
    for name in wanted:
        if name not in axes:
            raise ValueError(f"{name!r} is no axis of this grid, which has {', '.join(axes) or 'none'}.")
    others = [name for name in axes if name not in wanted]
    if others:
        choice = f"data.sel({others[0]}={shown(values[others[0]].values[0])})"
        also = "also " if wanted else ""
        raise ValueError(f"the data {also}have the axis {', '.join(others)}: choose one value, such as {choice}.")


def shown(value: Any) -> str:
    """A value of an axis as text."""
    if isinstance(value, str):
        return value
    return "inf" if np.isposinf(value) else f"{value:g}"


def labels(values: Any) -> list[str]:
    """The values of an axis as the texts of a picture, with as many digits as tell them apart."""
    texts = [shown(value) for value in values]
    if len(set(texts)) < len(texts):
        texts = [str(value) for value in values]
    return ["∞" if text == "inf" else text for text in texts]


def colours(n: int) -> np.ndarray:
    """`n` colours from dark to light, in print and for the colour-blind as different as on a screen."""
    return colormaps["viridis"](np.linspace(_DARKEST, _LIGHTEST, n))


def heat_map(
    data: "xarray.Dataset",
    x: str,
    y: str,
    *,
    of: str = "effective_rank",
    time: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """A quantity over two axes of a grid: its mean over the seeds, as the colour and as the number of each cell.

    **Arguments:** `data`, what `sweep(..., grid=...)` returns; `x` and `y`, two axes of its grid; `of`, an array of the
    dataset with one number for each seed, or for each seed and time; `time`, of which the nearest saved time is drawn,
    by default the last. Of booleans it is the share of true ones. Seeds whose number is not finite are left out of the
    mean, and how many seeds have failed is said at the top right.

    **Raises:** `ValueError` or `TypeError` for what is no such dataset, axis or array, and for a third axis.

    **Example:**

        >>> starts = dln.Ensemble(lambda key, std: dln.gaussian(key, 2, std), jax.random.key(0), 5)
        >>> grid = {"depth": [2, 3], "std": [0.1, 0.3]}
        >>> data = dln.sweep(dln.MatrixCompletion.diagonal(2), starts, ts=[0.0, 50.0], grid=grid)
        >>> ax = dln.plot.heat_map(data, "depth", "std")
        >>> ax.get_xlabel(), [label.get_text() for label in ax.get_xticklabels()]
        ('depth', ['2', '3'])
    """
    if not hasattr(data, "data_vars"):
        raise TypeError(f"data must be the xarray.Dataset of a sweep over a grid, got {type(data).__name__}.")
    if of not in data.data_vars:
        raise ValueError(
            f"of must be an array of the dataset, got {of!r}: it has {', '.join(map(str, data.data_vars))}."
        )
    data = flows_of(data, of)
    values = at_time(data, of, time)
    if values.dtype.kind not in "biuf" or "flag_meanings" in values.attrs:
        raise ValueError(f"{of} is no number, and has no mean: compare it first, such as data.result == 'steady'.")
    if {"mode", "row", "column"} & set(values.dims):
        raise ValueError(f"{of} is not one number for each seed: choose one first, such as data.isel(mode=0).")
    if x == y:
        raise ValueError(f"x and y must be two axes, got {x!r} twice.")
    require_axes(values, (x, y))
    mean = values.where(np.isfinite(values)).mean({"seed"} & set(values.dims)).transpose(y, x)
    ax = new_axes(ax)
    table = mean.values
    image = ax.pcolormesh(table, cmap="cividis", edgecolors="white", linewidth=0.6)
    span = Normalize(np.nanmin(table), np.nanmax(table)) if np.isfinite(table).any() else Normalize(0, 1)
    for (i, j), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        color = "black" if span(value) > _BRIGHT else "white"
        ax.text(j + 0.5, i + 0.5, f"{value:.3g}", ha="center", va="center", color=color, fontsize=7)
    for axis, name in ((ax.xaxis, x), (ax.yaxis, y)):
        texts = labels(data[name].values)
        axis.set_ticks(np.arange(len(texts)) + 0.5, texts)
        axis.set_label_text(name)
    ax.tick_params(length=0)
    ax.figure.colorbar(image, ax=ax, label=of.replace("_", " "))
    say_failures(ax, results_of(data))
    return ax
