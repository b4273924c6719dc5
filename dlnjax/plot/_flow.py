"""Flows in time."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from dlnjax._solution import FlowSolution
from dlnjax.plot._style import new_axes

if TYPE_CHECKING:
    import xarray


def as_dataset(sol: "FlowSolution | xarray.Dataset") -> "xarray.Dataset":
    return sol.to_xarray() if isinstance(sol, FlowSolution) else sol


def _time_axis(ax: Axes, times) -> None:
    # Flows start at 0 and rest for decades: logarithmic from the first positive time, linear before it.
    positive = times[times > 0]
    if len(positive) > 2 and positive[-1] / positive[0] > 50 and np.ptp(np.diff(times)) > 1e-9 * times[-1]:
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.7)
    ax.set_xlim(times[0], times[-1])
    ax.set_xlabel(r"time $t$ (1/N-normalised flow)")


def effective_rank(
    sol: "FlowSolution | xarray.Dataset",
    *,
    ax: Axes | None = None,
    individuals: int = 25,
    color: str = "C0",
    line: str = "black",
) -> Axes:
    """Effective rank (4.23) in time: the mean over seeds, the bands that hold 50 % and 90 % of them, and some seeds.

    **Arguments:** `sol`, a `FlowSolution` or its xarray form; `individuals`, how many seeds to draw one by one;
    `color`, of these and of the bands; `line`, the colour of the mean.

    **Example:**

        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(dln.MatrixCompletion.diagonal(2), starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> dln.plot.effective_rank(sol).get_ylabel()
        'effective rank'
    """
    data, ax = as_dataset(sol), new_axes(ax)
    times, rank = data["time"].values, np.atleast_2d(data["effective_rank"].values)
    if len(rank) > 1:
        for low, high in ((5, 95), (25, 75)):
            ax.fill_between(times, *np.nanpercentile(rank, (low, high), axis=0), color=color, alpha=0.18, lw=0)
        ax.plot(times, rank[:individuals].T, color=color, lw=0.4, alpha=0.4)
    ax.plot(times, np.nanmean(rank, axis=0), color=line, lw=1.6)
    _time_axis(ax, times)
    ax.set_ylabel("effective rank")
    return ax


def singular_values(sol: "FlowSolution | xarray.Dataset", *, ax: Axes | None = None) -> Axes:
    """The singular values of one flow in time, on a logarithmic axis, each labelled at its end.

    **Arguments:** `sol`, a `FlowSolution` of one matrix or its xarray form.

    **Raises:** `ValueError` for a sweep: choose a seed first, `sol.to_xarray().isel(seed=0)`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> dln.plot.singular_values(sol).get_yscale()
        'log'
    """
    data, ax = as_dataset(sol), new_axes(ax)
    if "seed" in data["sigma"].dims:
        raise ValueError("singular_values draws one matrix, got a sweep: pass sol.to_xarray().isel(seed=0).")
    times, sigma = data["time"].values, data["sigma"].values
    ax.set_yscale("log")
    ax.plot(times, sigma, color="C0")
    _time_axis(ax, times)
    low, high = np.log(ax.get_ylim())
    place = np.inf
    for k, end in enumerate(np.log(sigma[-1])):
        # Neighbours that end together are labelled one below the other.
        place = min(end, place - 0.055 * (high - low))
        ax.annotate(
            rf"$\sigma_{{{k + 1}}}$", (times[-1], np.exp(place)), (3, 0), textcoords="offset points", va="center"
        )
    ax.set_ylabel(r"singular values $\sigma_i$")
    return ax
