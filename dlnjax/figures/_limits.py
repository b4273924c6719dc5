"""Figure 4.2d: the mean limiting effective rank grows linearly with the dimension."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import gaussian, MatrixCompletion, Steady, sweep
from dlnjax.figures._figure import Figure, Number, verdict
from dlnjax.plot import new_figure

LARGEST, BLOCK = 25, 9


def compute(key, seeds: int) -> xarray.Dataset:
    dims = np.arange(2, LARGEST + 1)
    start, end = [], []
    draw = jax.vmap(gaussian, (0, None, None))
    # A start of size d, padded by zeros, is a matrix of rank d on which the flow stays: so a block of dimensions shares
    # one shape and one compilation.
    for first in range(1, LARGEST + 1, BLOCK):
        size = min(first + BLOCK - 1, LARGEST)
        block = [d for d in range(max(first, 2), size + 1)]
        of_seed = np.repeat(block, seeds)
        inside = jnp.asarray(np.arange(size) < of_seed[:, None])
        keys = jax.random.split(jax.random.fold_in(key, size), len(of_seed))
        std = jnp.asarray(of_seed**-0.5)[:, None, None]
        starts = jnp.where(inside[:, :, None] & inside[:, None, :], std * draw(keys, size, 1.0), 0.0)
        energy = MatrixCompletion(jnp.eye(size), inside[:, :, None] & jnp.eye(size, dtype=bool), weight=1.0)
        sol = sweep(energy, starts, ts=[0.0, 100.0], stop=Steady(1e-4), observe=lambda point: point.sigma)
        ranks = np.asarray(sol.effective_rank).reshape(len(block), seeds, 2)
        start.append(ranks[..., 0])
        end.append(ranks[..., 1])
    return xarray.Dataset(
        {
            "start": (("d", "seed"), np.concatenate(start), {"long_name": "effective rank at the start"}),
            "end": (("d", "seed"), np.concatenate(end), {"long_name": "effective rank in the limit"}),
        },
        coords={"d": dims},
        attrs={"energy": "sum (X_ii - 1)^2, thesis (4.21)", "depth": "inf", "start": "X_ij ~ N(0, 1/d)"},
    )


def _fit(values: xarray.DataArray):
    """Slope and intercept of the means against d, weighted by their standard errors, with the errors of both."""
    average = values.mean("seed").values
    error = values.std("seed", ddof=1).values / np.sqrt(values.sizes["seed"])
    (slope, intercept), covariance = np.polyfit(values["d"].values, average, 1, w=1 / error, cov="unscaled")
    return slope, intercept, np.sqrt(np.diag(covariance)), average, error


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(3.4, 2.8)
    ax = figure.subplots()
    d = data["d"].values
    for name, color, marker in (("start", "0.55", "s"), ("end", "C0", "o")):
        slope, intercept, (slope_error, _), average, error = _fit(data[name])
        ax.errorbar(d, average, 2 * error, fmt=marker, color=color, lw=0.8, markersize=2.5)
        ax.plot(d, slope * d + intercept, color=color, lw=1)
        what, at, align = ("start", (0.03, 0.88), "left") if name == "start" else ("limit", (1.0, 0.3), "right")
        label = rf"{what}: slope ${slope:.3f} \pm {slope_error:.3f}$"
        ax.text(*at, label, transform=ax.transAxes, ha=align, color="0.35" if name == "start" else color)
    around = average.mean() + 0.6 * (d - d.mean())
    ax.plot(d, around, color="C1", lw=0.8, ls="--", zorder=0)
    ax.text(1.0, 0.2, "dashed: slope 3/5 (thesis)", transform=ax.transAxes, ha="right", color="C1")
    ax.set(xlabel=r"dimension $d$", ylabel="mean effective rank")
    ax.set_title(rf"$N = \infty$, {data.sizes['seed']} starts $N(0, 1/d)$ each, bars: 2 s.e.")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    slope, intercept, (slope_error, intercept_error), _, _ = _fit(data["end"])
    start_slope, _, (start_error, _), _, _ = _fit(data["start"])
    near = abs(slope - 0.6) < 0.1
    said = verdict(near and abs(slope - 0.6) < 3 * slope_error, "near it, and below" if near else "disagrees")
    return [
        Number("slope of the limiting effective rank against d", "around 3/5", slope, slope_error, said),
        Number("intercept of that line", "-", intercept, intercept_error, "measured"),
        Number("slope of the effective rank at the start", "-", start_slope, start_error, "measured"),
    ]


FIGURE = Figure("4.2d", "The limiting effective rank grows linearly with the dimension", 50, compute, draw, numbers)
