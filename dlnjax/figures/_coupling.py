"""Figure 4.1a: where small 2 x 2 starts end on the set of minimisers of the diagonal completion."""

import numpy as np
import xarray
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Drawing

from dlnjax import Ensemble, gaussian, MatrixCompletion, RESULTS, Steady, sweep
from dlnjax.figures._figure import Figure, mean, Number, verdict
from dlnjax.plot import new_figure

STD, HORIZON = 0.01, 1e5


def compute(key, seeds: int) -> xarray.Dataset:
    starts = Ensemble(lambda k: gaussian(k, 2, STD), key, seeds)
    sol = sweep(
        MatrixCompletion.diagonal(2), starts, ts=[0.0, HORIZON], stop=Steady(1e-6), chunk=seeds, max_steps=20_000
    )
    x = np.asarray(sol.x)
    return xarray.Dataset(
        {
            "x12": ("seed", x[:, -1, 0, 1], {"long_name": "X_12 at the end"}),
            "x21": ("seed", x[:, -1, 1, 0], {"long_name": "X_21 at the end"}),
            "effective_rank": ("seed", np.asarray(sol.effective_rank)[:, -1]),
            "determinant": ("seed", np.linalg.det(x[:, 0]), {"long_name": "det X(0), whose sign the flow keeps"}),
            "converged": ("seed", np.asarray(sol.result == RESULTS.steady), {"long_name": "|dE| <= 1e-6"}),
            "t_end": ("seed", np.asarray(sol.t_end)),
        },
        attrs={
            "energy": "E(X) = (X_11 - 1)^2 + (X_22 - 1)^2, thesis (4.21)",
            "depth": "inf",
            "start": f"X_ij ~ N(0, {STD}^2)",
            "horizon": HORIZON,
        },
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(3.4, 3.1)
    ax = figure.subplots()
    reach = 1.1 * float(max(abs(data["x12"]).max(), abs(data["x21"]).max()))
    # Most limits have rank one to a per cent: the power spreads the colours there.
    norm = PowerNorm(0.4, vmin=1, vmax=max(1.02, float(data["effective_rank"].max())))
    points = _scatter(ax, data, norm, reach)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel=r"$X_{12}$", ylabel=r"$X_{21}$", aspect="equal")
    ax.legend(loc="upper left", handletextpad=0.2, borderaxespad=0)
    zoom = ax.inset_axes((0.62, 0.09, 0.38, 0.38))
    _scatter(zoom, data, norm, reach)
    zoom.set(xlim=(0.85, 1.15), ylim=(0.85, 1.15), xticks=[0.9, 1.1], yticks=[0.9, 1.1])
    zoom.tick_params(labelsize=6)
    ax.indicate_inset_zoom(zoom, edgecolor="0.5", lw=0.5)
    figure.colorbar(points, ax=ax, label="limiting effective rank", shrink=0.85)
    ax.set_title(rf"$d = 2$, $N = \infty$, std {STD}, {data.sizes['seed']} starts")
    return figure


def _scatter(ax, data: xarray.Dataset, norm, reach: float):
    line = np.geomspace(1 / reach, reach, 200)
    for sign in (1, -1):
        label = "$X_{12} X_{21} = 1$" if sign > 0 else None
        ax.plot(sign * line, sign / line, color="C1", lw=0.8, zorder=1, label=label)

    def limits(chosen, marker, label):
        part = data.where(chosen & data["converged"], drop=True)
        style = {"marker": marker, "s": 11, "lw": 0.25, "edgecolors": "black", "norm": norm, "label": label}
        return ax.scatter(part["x12"], part["x21"], c=part["effective_rank"], **style)

    limits(data["determinant"] > 0, "o", r"$\det X_0 > 0$")
    points = limits(data["determinant"] < 0, "^", r"$\det X_0 < 0$")
    moving = data.where(~data["converged"], drop=True)
    if moving.sizes["seed"]:
        ax.scatter(moving["x12"], moving["x21"], marker="x", color="C3", s=14, lw=0.8, label="not at rest")
    return points


def numbers(data: xarray.Dataset) -> list[Number]:
    product = data["x12"].values * data["x21"].values
    negative = data["determinant"].values < 0
    done = data["converged"].values
    near, far_side = mean(abs(product - 1) < 0.1), mean((product > 1)[negative & done])
    inside = mean((product < 1)[~negative & done])
    return [
        Number("share of starts with |X12 X21 - 1| < 0.1", "concentrated at 1", *near, verdict(near[0] > 0.9)),
        Number("share at rest by the horizon", "-", *mean(done), "measured"),
        Number("det X0 < 0: share of limits with X12 X21 > 1", "-", *far_side, "measured"),
        Number("det X0 > 0: share of limits with X12 X21 < 1", "-", *inside, "measured"),
    ]


FIGURE = Figure("4.1a", "Limits of small starts concentrate on the rank-one minimisers", 500, compute, draw, numbers)
