"""Figure 4.2a to c: the effective rank falls along the flow, in every dimension."""

import functools

import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Ensemble, gaussian, MatrixCompletion, Steady, sweep
from dlnjax.figures._figure import Figure, mean, Number, verdict
from dlnjax.plot import effective_rank, new_figure


def compute(key, seeds: int, *, d: int) -> xarray.Dataset:
    starts = Ensemble(lambda k: gaussian(k, d, d**-0.5), key, seeds)
    ts = jnp.append(0.0, jnp.geomspace(1e-2, 1e2, 41))
    sol = sweep(MatrixCompletion.diagonal(d), starts, ts=ts, stop=Steady(1e-6), observe=lambda point: point.sigma)
    data = sol.to_xarray()[["sigma", "effective_rank", "t_end", "result", "steps"]]
    return data.assign_attrs(energy="sum (X_ii - 1)^2, thesis (4.21)", depth="inf", start="X_ij ~ N(0, 1/d)", d=d)


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(3.4, 2.4)
    ax, side = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
    effective_rank(data, ax=ax)
    d = int(data.attrs["d"])
    ax.set_title(rf"$d = {d}$, $N = \infty$, {data.sizes['seed']} starts $N(0, 1/d)$")
    rank = data["effective_rank"].values
    bins = np.linspace(rank.min(), rank.max(), 30)
    for k, color, label in ((0, "0.55", "start"), (-1, "C0", "limit")):
        counts, _, _ = side.hist(rank[:, k], bins=list(bins), orientation="horizontal", color=color, alpha=0.7)
        side.annotate(label, (1.05 * counts.max(), np.median(rank[:, k])), va="center", fontsize=7)
    side.set_xlabel("seeds")
    side.set_xlim(0, 1.6 * max(np.histogram(rank[:, k], bins)[0].max() for k in (0, -1)))
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    rank, d = data["effective_rank"].values, int(data.attrs["d"])
    start, end = mean(rank[:, 0]), mean(rank[:, -1])
    fall = mean(rank[:, 0] - rank[:, -1])
    return [
        Number(f"mean effective rank at the start, d = {d}", "-", *start, "measured"),
        Number(f"mean effective rank in the limit, d = {d}", "-", *end, "measured"),
        Number(f"mean fall of the effective rank, d = {d}", "drastic gap", *fall, verdict(fall[0] > 10 * fall[1])),
    ]


def _figure(letter: str, d: int) -> Figure:
    title = f"The effective rank falls along the flow, d = {d}"
    return Figure(f"4.2{letter}", title, 200, functools.partial(compute, d=d), draw, numbers)


FIGURES = [_figure("a", 5), _figure("b", 10), _figure("c", 20)]
