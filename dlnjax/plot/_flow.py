"""Pictures of flows over time."""

import warnings
from collections.abc import Callable
from typing import Any, TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from dlnjax._geometry.spectrum import effective_rank_or_nan
from dlnjax._results import RESULTS
from dlnjax._show import Curves, FLOW_TIME, Shown
from dlnjax.plot._data import flows_of, results_of, say_failures, times_of
from dlnjax.plot._grid import colours, labels, require_axes
from dlnjax.plot._style import ink, new_axes

if TYPE_CHECKING:
    import xarray

# A logarithmic axis of time has about as many labels.
_LABELS = 6


def _over_seeds(statistic: Callable[..., np.ndarray], values: np.ndarray, *more: Any) -> np.ndarray:
    """A statistic over the seeds, NaN where none has a value, of which NumPy would warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return statistic(values, *more, axis=0)


def _along(sol: "Shown | xarray.Dataset", name: str) -> Curves:
    """Singular values, or effective ranks, along a solution or the xarray form of a flow."""
    if not isinstance(sol, Shown):
        data = flows_of(sol, name)
        require_axes(data[name], ())
        return Curves.of(times_of(data), data[name].values, FLOW_TIME, result=results_of(data))
    curves = sol._curves()
    return curves if name == "sigma" else curves._replace(sigma=np.asarray(effective_rank_or_nan(curves.sigma)))


def _time_axis(ax: Axes, times, label: str, result: RESULTS | None) -> None:
    # A flow starts at time 0 and is at rest for the last decades of its times, so that neither a linear nor a
    # logarithmic axis shows all of it. This axis is linear up to the first positive time, and logarithmic after it.
    positive = times[times > 0]
    rounding = max(1e-9, 8 * float(np.finfo(times.dtype).eps)) if times.dtype.kind == "f" else 0.0
    uneven = len(positive) > 2 and np.ptp(np.diff(times)) > rounding * times[-1]
    if uneven and positive[-1] / positive[0] > 50 and ax.get_xscale() != "log":
        ax.set_xscale("symlog", linthresh=positive[0], linscale=0.7)
        # By default the decade below the first positive time has a label too, which lies upon that of 0.
        first, last = np.ceil(np.log10(positive[0])), np.floor(np.log10(positive[-1]))
        ax.set_xticks([0.0, *10.0 ** np.arange(first, last + 1, max(1, np.ceil((last - first) / _LABELS)))])
    # What was drawn in these axes before stays in sight.
    first, last = ax.dataLim.intervalx
    # On a logarithmic axis of the caller time 0 has no place.
    start = min(first, times[0]) if ax.get_xscale() != "log" else min(ax.dataLim.minposx, *positive[:1], np.inf)
    ax.set_xlim(start, max(last, times[-1]))
    ax.set_xlabel(label)
    say_failures(ax, result)


def effective_rank(
    sol: "Shown | xarray.Dataset",
    *,
    ax: Axes | None = None,
    by: str | None = None,
    individuals: int = 25,
    color: str = "C0",
    line: str = "black",
) -> Axes:
    """Effective rank (4.23) in time: the mean over seeds, the bands that hold 50 % and 90 % of them, and some seeds.

    **Arguments:** `sol`, any solution of the library, or the xarray form of a flow; `by`, an axis of the grid of a
    sweep, for each value of which the mean and the band of 50 % are drawn; `individuals`, how many seeds to draw one by
    one; `color`, the colour of these seeds and of the bands; `line`, the colour of the mean.

    **Raises:** `TypeError` for what is no solution; `ValueError` for a grid of which no axis, or not the only one, is
    named by `by`.

    **Example:**

        >>> starts = dln.Ensemble(lambda key: dln.gaussian(key, 2, 0.1), jax.random.key(0), 10)
        >>> sol = dln.sweep(dln.MatrixCompletion.diagonal(2), starts, ts=[0.0, 1.0, 100.0], stop=dln.Steady(1e-6))
        >>> dln.plot.effective_rank(sol).get_ylabel()
        'effective rank'
    """
    if by is not None:
        return _by_axis(flows_of(sol, "effective_rank"), by, new_axes(ax))
    times, rank, label, result = _along(sol, "effective_rank")
    color, line, ax = ink(color, ax), ink(line, ax), new_axes(ax)
    rank = np.atleast_2d(rank)
    if len(rank) > 1:
        for low, high in ((5, 95), (25, 75)):
            ax.fill_between(times, *_over_seeds(np.nanpercentile, rank, (low, high)), color=color, alpha=0.18, lw=0)
        ax.plot(times, rank[:individuals].T, color=color, lw=0.4, alpha=0.4)
    ax.plot(times, _over_seeds(np.nanmean, rank), color=line, lw=1.6)
    _time_axis(ax, times, label, result)
    ax.set_ylabel("effective rank")
    return ax


def _by_axis(data: "xarray.Dataset", by: str, ax: Axes) -> Axes:
    require_axes(data["effective_rank"], (by,))
    times, texts = times_of(data), labels(data[by].values)
    for k, (text, color) in enumerate(zip(texts, colours(len(texts)), strict=True)):
        one = np.atleast_2d(_along(data.isel({by: k}), "effective_rank").sigma)
        if len(one) > 1:
            ax.fill_between(times, *_over_seeds(np.nanpercentile, one, (25, 75)), color=color, alpha=0.18, lw=0)
        ax.plot(times, _over_seeds(np.nanmean, one), color=color, lw=1.6, label=f"{by} {text}")
    _time_axis(ax, times, FLOW_TIME, results_of(data))
    ax.set_ylabel("effective rank")
    ax.legend()
    return ax


def singular_values(sol: "Shown | xarray.Dataset", *, ax: Axes | None = None) -> Axes:
    """The singular values along a solution, on a logarithmic axis, each in a colour of its own and labelled at its end.

    Of a sweep it draws the median over the seeds of each singular value, and the band that holds 50 % of them.

    **Arguments:** `sol`, any solution of the library, or the xarray form of a flow.

    **Raises:** `TypeError` for what is no solution; `ValueError` for a sweep over a grid: choose a point first, such as
    `data.sel(depth=2)`.

    **Example:**

        >>> energy, x0 = dln.MatrixCompletion.diagonal(2), jnp.array([[0.2, 0.1], [-0.1, 0.3]])
        >>> sol = dln.gradient_flow(energy, x0, ts=[0.0, 2.0, 20.0], stop=dln.Steady(1e-6))
        >>> dln.plot.singular_values(sol).get_yscale()
        'log'
    """
    times, values, label, result = _along(sol, "sigma")
    ax = new_axes(ax)
    ax.set_yscale("log")
    seeds = values if values.ndim == 3 else values[None]
    found = _over_seeds(np.nanpercentile, seeds, (25, 50, 75))
    # A value of zero has no place on a logarithmic axis. Matplotlib would put it at the lower edge, and draw a jump.
    low, sigma, high = np.where(found > 0, found, np.nan)
    for k, color in enumerate(colours(sigma.shape[-1])):
        if len(seeds) > 1:
            ax.fill_between(times, low[:, k], high[:, k], color=color, alpha=0.18, lw=0)
        ax.plot(times, sigma[:, k], color=color)
    _time_axis(ax, times, label, result)
    low, high = np.log(ax.get_ylim())
    place = np.inf
    # A singular value of zero has no place on a logarithmic axis, and no label.
    for k, end in enumerate(np.log(sigma[-1][sigma[-1] > 0])):
        # Labels of values that end close together would cover each other. Only the largest of these values is labelled.
        if end < place - 0.05 * (high - low):
            place, label = end, rf"$\sigma_{{{k + 1}}}$"
            at = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            ax.annotate(label, (times[-1], np.exp(end)), (3, 0), **at)
    ax.set_ylabel(r"singular values $\sigma_i$")
    return ax
