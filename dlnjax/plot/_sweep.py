"""The picture of a whole sweep."""

from typing import Any, TYPE_CHECKING

import jax
import numpy as np
from matplotlib.figure import Figure

from dlnjax._loaded import solution_of
from dlnjax.plot._data import flows_of, times_of
from dlnjax.plot._distributions import effective_rank_violins
from dlnjax.plot._flow import effective_rank, singular_values
from dlnjax.plot._grid import heat_map, labels
from dlnjax.plot._style import new_figure, style

if TYPE_CHECKING:
    import xarray


def sweep(sol: "Any | xarray.Dataset") -> Figure:
    """A sweep in one figure, which is also what `dlnjax plot` draws of a folder.

    Without a grid it has effective ranks and singular values in time. Over one axis of a grid it has effective ranks in
    time, and at the last time a violin for each value of the axis. Over two axes it is a heat map of the mean effective
    rank at the last time.

    **Arguments:** `sol`, the `FlowSolution` of a sweep, or its xarray form.

    **Raises:** `TypeError` for what is no sweep; `ValueError` for a grid of more than two axes: choose a point first.

    **Example:**

        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(dln.MatrixCompletion.diagonal(2), starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> len(dln.plot.sweep(sol).axes)
        2
    """
    data = flows_of(sol, "effective_rank")
    rank = data["effective_rank"]
    axes = [str(name) for name in rank.dims if name not in ("seed", "time")]
    if "seed" not in rank.dims or len(axes) > 2:
        found = ", ".join(map(str, rank.dims))
        raise ValueError(
            f"sweep draws many seeds, over a grid of at most two axes, got the dimensions {found}. "
            "Choose a point of an axis first, such as data.sel(depth=2)."
        )
    with style():
        figure = new_figure(6.8 if len(axes) < 2 else 4.2)
        rows, columns, seeds = (data.sizes[name] for name in ("row", "column", "seed"))
        what = [data.attrs.get("energy_name", ""), f"{rows} x {columns}", f"{seeds} seeds"]
        figure.suptitle(", ".join(filter(None, what if axes else [*what, _kernel_of(data)])))
        if len(axes) == 2:
            heat_map(data, axes[1], axes[0], ax=figure.add_subplot())
            return figure
        left, right = figure.subplots(1, 2)
        if axes:
            name = axes[0]
            effective_rank(data, by=name, ax=left)
            effective_rank_violins(
                {text: data.isel({name: k}) for k, text in enumerate(labels(data[name].values))}, ax=right
            )
            right.set_xlabel(f"{name}, at time {times_of(data)[-1]:g}")
        else:
            effective_rank(data, ax=left)
            singular_values(data, ax=right)
    return figure


def _kernel_of(data: "xarray.Dataset") -> str:
    """The kernel in words: that of all seeds, or nothing where the seeds differ."""
    kernel = solution_of(data.isel(time=slice(1)), "the sweep").depth
    leaves = jax.tree.leaves(kernel)
    same = all(np.ndim(leaf) == 0 or np.all(leaf == leaf[0]) for leaf in leaves)
    return str(jax.tree.map(lambda leaf: leaf if np.ndim(leaf) == 0 else leaf[0], kernel)) if same else ""
