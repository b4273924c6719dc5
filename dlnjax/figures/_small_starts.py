"""Figure 4.3: the smaller the start, the lower the limiting effective rank."""

import numpy as np
import xarray
from matplotlib import colormaps
from matplotlib.figure import Figure as Drawing

from dlnjax import RESULTS
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, share
from dlnjax.figures._shapes import diagonal_flows, ENERGY, rank_of, times
from dlnjax.plot import effective_rank, effective_rank_violins, new_figure

D, T, HORIZON = 25, 100.0, 2e3
EXPECTED = {1e-3: "1.068", 3e-3: "nan", 1e-2: "1.75", 3e-2: "3.78", 0.1: "9.78", 0.3: "16.2", 1.0: "19.4"}


def compute(key, seeds: int) -> xarray.Dataset:
    std = np.repeat(list(EXPECTED), seeds)
    sol = diagonal_flows(normal_of_each(key, len(std), (D, D)), D, std, times(1e-2, HORIZON, T / 2, T))
    shape = (len(EXPECTED), seeds)
    return xarray.Dataset(
        {
            "effective_rank": (("std", "seed", "time"), rank_of(sol.sigma).reshape(*shape, -1)),
            "converged": (("std", "seed"), np.asarray(sol.result == RESULTS.steady).reshape(shape)),
            "t_end": (("std", "seed"), np.asarray(sol.t_end).reshape(shape), {"long_name": "time of rest"}),
        },
        coords={
            "std": ("std", list(EXPECTED), {"long_name": "standard deviation of the entries of the start"}),
            "time": ("time", np.asarray(sol.ts), {"long_name": "time of the flow at infinite depth"}),
        },
        attrs={"energy": ENERGY, "depth": "inf", "d": D, "start": "X_ij ~ N(0, std^2)", "at rest": "|dE| <= 1e-4"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, violins = figure.subplots(1, 2)
    stds = data["std"].values
    place = -np.inf
    for std, color in zip(stds, colormaps["viridis"](np.linspace(0, 0.85, len(stds))), strict=True):
        one = data.sel(std=std)
        effective_rank(one, ax=ax, individuals=0, color=color, line=color)
        # Each label is at least 1 above the one before, so that labels of curves that end together do not overlap.
        place = max(place + 1.0, float(one["effective_rank"].isel(time=-1).mean()))
        ax.annotate(
            f"{std:g}", (HORIZON, place), (3, 0), textcoords="offset points", va="center", color=color, fontsize=7
        )
    ax.annotate("std", (HORIZON, place + 1.3), (3, 0), textcoords="offset points", va="center", fontsize=7)
    ax.set_title(rf"$d = {D}$, $N = \infty$: means, 50 and 90 %")
    of_std = {f"{std:g}": data.sel(std=std) for std in stds}
    effective_rank_violins(of_std, time=T, ax=violins, color="C0", side="low")
    effective_rank_violins(of_std, ax=violins, color="C1", side="high")
    half = data["effective_rank"].sel(time=T / 2, method="nearest").mean("seed")
    violins.plot(range(len(stds)), half, "kD", markersize=2.5, mfc="white", mew=0.5)
    label = f"$T = {T:.0f}$ with\nthe 1/2 of (4.24)"
    violins.annotate(label, (0, half[0]), (7, 0), textcoords="offset points", va="center")
    violins.text(1, 0.16, f"left: $T = {T:.0f}$", transform=violins.transAxes, color="C0", ha="right")
    violins.text(1, 0.05, "right: at rest", transform=violins.transAxes, color="C1", ha="right")
    violins.set_title(rf"at $T = {T:.0f}$, and at rest")
    violins.set_xlabel("standard deviation of the start's entries")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rank = data["effective_rank"]
    at = lambda std, time: mean(rank.sel(std=std).sel(time=time, method="nearest").values)
    rows = [
        measured(f"mean effective rank at T = 100, std {std:g}", at(std, T), expected)
        for std, expected in EXPECTED.items()
    ]
    rows += [measured(f"mean effective rank at convergence, std {std:g}", at(std, HORIZON)) for std in EXPECTED]
    # The flow of the energy with a factor 1/2 is half as fast, so that its time T = 100 is the time T = 50 here.
    rows.append(measured("with the 1/2 of (4.24), at T = 100, std 0.001", at(1e-3, T / 2), "17.1"))
    rows.append(measured("share that converged, all std", share(data["converged"].values.ravel())))
    return rows


FIGURE = Figure(
    "4.3",
    "The smaller the start, the lower the limiting effective rank",
    100,
    compute,
    draw,
    numbers,
    text="(a) The effective rank in time for starts of several sizes: means, and bands that hold 50 % and 90 % of "
    "the starts. (b) Its distribution at T = 100 (left halves) and at convergence (right halves), with means and "
    "two standard errors. Small starts end at rank one, but late: with the 1/2 of (4.24), which (4.21) lacks, the "
    "flow is half as fast, and the smallest starts have not moved by T = 100 (diamonds).",
    parameters="E of (4.21), d = 25, N = infinity, X_ij ~ N(0, std^2), to |dE| <= 1e-4 or t = 2000, 100 starts for "
    "each std",
)
