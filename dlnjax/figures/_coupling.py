"""Figure 4.1a: where small 2 x 2 starts end on the set of minimisers of the diagonal completion."""

import numpy as np
import xarray
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure as Drawing

from dlnjax import MatrixCompletion, RESULTS
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, measured, Number, share, verdict
from dlnjax.figures._shapes import ENERGY, rank_of, small_flows, times
from dlnjax.plot import new_figure

STDS, STD, HORIZON = (0.003, 0.01, 0.1), 0.01, 1e6


def compute(key, seeds: int) -> xarray.Dataset:
    entries = normal_of_each(key, seeds, (2, 2))
    starts = (np.array(STDS)[:, None, None, None] * entries).reshape(-1, 2, 2)
    sol = small_flows(MatrixCompletion.diagonal(2), starts, times(1.0, HORIZON), gradient=1e-6)
    of_start = lambda values: (("std", "seed"), np.asarray(values).reshape(len(STDS), seeds))
    x = sol.final.matrix
    return xarray.Dataset(
        {
            "x12": (*of_start(x[:, 0, 1]), {"long_name": "X_12 at the end"}),
            "x21": (*of_start(x[:, 1, 0]), {"long_name": "X_21 at the end"}),
            "effective_rank": of_start(rank_of(sol.sigma)[:, -1]),
            "determinant": (*of_start(np.linalg.det(starts)), {"long_name": "det X(0), whose sign the flow keeps"}),
            "converged": (*of_start(sol.result == RESULTS.steady), {"long_name": "|dE| <= 1e-6"}),
            "t_end": (*of_start(sol.t_end), {"long_name": "time of rest"}),
        },
        coords={"std": list(STDS)},
        attrs={"energy": ENERGY, "depth": "inf", "start": "X_ij ~ N(0, std^2)", "horizon": HORIZON},
    )


def draw(data: xarray.Dataset) -> Drawing:
    data = data.sel(std=STD)
    figure = new_figure(5.6, 3.8)
    ax = figure.subplots()
    reach = 1.1 * float(max(abs(data["x12"]).max(), abs(data["x21"]).max()))
    # Most limits have an effective rank within one per cent of 1. The power spreads the colours there.
    norm = PowerNorm(0.4, vmin=1, vmax=max(1.02, float(data["effective_rank"].max())))
    points = _scatter(ax, data, norm, reach)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel=r"$X_{12}$", ylabel=r"$X_{21}$", aspect="equal")
    ax.legend(loc="upper left", handletextpad=0.2, borderaxespad=0)
    zoom = ax.inset_axes((0.61, 0.11, 0.39, 0.39))
    _scatter(zoom, data, norm, reach)
    zoom.set(xlim=(0.85, 1.15), ylim=(0.85, 1.15), xticks=[0.9, 1.1], yticks=[0.9, 1.1])
    zoom.tick_params(labelsize=6)
    ax.indicate_inset_zoom(zoom, edgecolor="0.5", lw=0.5)
    figure.colorbar(points, ax=ax, label="limiting effective rank", shrink=0.9)
    ax.set_title(rf"$d = 2$, $N = \infty$, std {STD}, {data.sizes['seed']} starts")
    return figure


def _scatter(ax, data: xarray.Dataset, norm, reach: float):
    line = np.geomspace(1 / reach, reach, 200)
    for sign in (1, -1):
        label = "$X_{12} X_{21} = 1$" if sign > 0 else None
        ax.plot(sign * line, sign / line, color="C1", lw=0.8, zorder=1, label=label)

    def limits(chosen, marker, edge, label):
        part = data.where(chosen & data["converged"], drop=True)
        style = {
            "marker": marker,
            "s": 12,
            "lw": 0.4,
            "alpha": 0.9,
            "edgecolors": edge,
            "norm": norm,
            "cmap": "YlGnBu",
            "label": label,
        }
        return ax.scatter(part["x12"], part["x21"], c=part["effective_rank"], **style)

    limits(data["determinant"] > 0, "o", "0.3", r"$\det X_0 > 0$")
    points = limits(data["determinant"] < 0, "^", "C3", r"$\det X_0 < 0$")
    moving = data.where(~data["converged"], drop=True)
    if moving.sizes["seed"]:
        ax.scatter(moving["x12"], moving["x21"], marker="x", color="C3", s=14, lw=0.8, label="not at rest")
    return points


_RESTS = (
    "Every start comes to rest if it is given the time: some need t = 60000, beyond the horizon of that computation."
)


def numbers(data: xarray.Dataset) -> list[Number]:
    product = (data["x12"] * data["x21"]).sel(std=STD).values
    negative = data["determinant"].sel(std=STD).values < 0
    done = data["converged"].sel(std=STD).values
    near = lambda std: share(abs(data["x12"] * data["x21"] - 1).sel(std=std).values < 0.1)
    far_side, near_side = share((product > 1)[negative & done]), share((product < 1)[~negative & done])
    sides = "every minimiser of that determinant lies there"
    return [
        measured("share of starts with |X12 X21 - 1| < 0.1, std 0.01", near(STD), "0.98", "concentrated at 1"),
        measured("the same share, std 0.1", near(0.1), "0.57"),
        measured("the same share, std 0.003", near(0.003), "0.998"),
        measured("share at rest by the horizon, std 0.01", share(done), "0.984", note=_RESTS if done.all() else ""),
        Number("det X0 < 0: share of limits with X12 X21 > 1", sides, *far_side, verdict(far_side[0] == 1)),
        Number("det X0 > 0: share of limits with X12 X21 < 1", sides, *near_side, verdict(near_side[0] == 1)),
    ]


FIGURE = Figure(
    "4.1a",
    "Limits of small starts concentrate on the rank-one minimisers",
    500,
    compute,
    draw,
    numbers,
    text="Each point is the limit of one start; the curve holds the minimisers of rank one, X12 X21 = 1. The flow "
    "keeps the sign of the determinant, which is 1 - X12 X21 at a minimiser: starts with det < 0 cannot reach the "
    "curve from the side of the identity, nor any minimiser with X12 X21 < 1. They come to rest just beyond the curve "
    "(triangles), those with det > 0 before it (circles), and none is left over.",
    parameters="E of (4.21), d = 2, N = infinity, X_ij ~ N(0, 0.01^2), to |dE| <= 1e-6 or t = 1e6, 500 starts",
)
