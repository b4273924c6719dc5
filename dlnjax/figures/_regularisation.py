"""Figure 4.5b: the diagonal completion with and without the entropy, read at a time, for it has no equilibrium."""

import numpy as np
import xarray
from matplotlib import colormaps
from matplotlib.figure import Figure as Drawing

from dlnjax import FreeEnergy, MatrixCompletion
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, share as proportion, two_errors, verdict
from dlnjax.figures._shapes import rank_of, small_flows, times
from dlnjax.plot import effective_rank_violins, new_figure

BETA, T = 20.0, 100.0
STDS = (0.01, 0.03, 0.1, 0.3, 1.0)


def compute(key, seeds: int) -> xarray.Dataset:
    entries = normal_of_each(key, seeds, (2, 2))
    starts = (np.array(STDS)[:, None, None, None] * entries).reshape(-1, 2, 2)
    plain = MatrixCompletion.diagonal(2)
    ts = times(1.0, T)
    flows = [small_flows(energy, starts, ts, gradient=1e-10) for energy in (plain, FreeEnergy(plain, BETA))]
    ranks = [rank_of(sol.sigma).reshape(len(STDS), seeds, len(ts)) for sol in flows]
    return xarray.Dataset(
        {"effective_rank": (("entropy", "std", "seed", "time"), np.stack(ranks))},
        coords={
            "entropy": ("entropy", [0, 1], {"long_name": "0 without, 1 with -S/beta"}),
            "std": ("std", list(STDS), {"long_name": "standard deviation of the entries of the start"}),
            "time": ("time", ts, {"long_name": "time of the flow at infinite depth"}),
        },
        attrs={"energy": "(4.21) and (4.21) - S/beta", "beta": BETA, "depth": "inf", "start": "X_ij ~ N(0, std^2)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    violins, ax = figure.subplots(1, 2)
    without, with_ = ({f"{std:g}": data.sel(entropy=k, std=std) for std in data["std"].values} for k in (0, 1))
    effective_rank_violins(without, time=T, ax=violins, color="C0", side="low")
    effective_rank_violins(with_, time=T, ax=violins, color="C1", side="high")
    violins.text(0.03, 0.9, "left: without entropy", transform=violins.transAxes, color="C0")
    violins.text(0.03, 0.8, rf"right: with, $\beta = {BETA:.0f}$", transform=violins.transAxes, color="C1")
    violins.set(xlabel="standard deviation of the start's entries", ylim=(0.98, 2.4))
    violins.set_title(rf"$d = 2$, $N = \infty$, read at $t = {T:.0f}$, {data.sizes['seed']} starts")
    difference = _difference(data)
    error = two_errors(difference)
    colors = colormaps["viridis"](np.linspace(0, 0.85, data.sizes["std"]))
    for std, color in zip(data["std"].values, colors, strict=True):
        middle = difference.sel(std=std).mean("seed")
        ax.fill_between(
            data["time"], middle - error.sel(std=std), middle + error.sel(std=std), color=color, alpha=0.3, lw=0
        )
        ax.plot(data["time"], middle, color=color, label=f"std {std:g}")
    ax.axhline(0, color="0.5", lw=0.6)
    ax.set(xscale="log", xlim=(1, T), xlabel=r"time $t$ (1/N-normalised flow)", ylabel="mean change by the entropy")
    ax.legend(loc="lower left", ncols=2, handlelength=1.2, columnspacing=1)
    ax.set_title("with minus without entropy; bands: 2 s.e.")
    return lettered(figure)


def _difference(data: xarray.Dataset) -> xarray.DataArray:
    return data["effective_rank"].sel(entropy=1) - data["effective_rank"].sel(entropy=0)


def numbers(data: xarray.Dataset) -> list[Number]:
    rank = data["effective_rank"].sel(time=T)
    rows = []
    for entropy, name, centre, share in ((0, "without", "1.172", "0.74"), (1, "with", "1.074", "0.87")):
        one = rank.sel(entropy=entropy, std=0.01).values
        rows.append(measured(f"mean effective rank at T = 100, std 0.01, {name} entropy", mean(one), centre))
        rows.append(measured(f"share below 1.1 at T = 100, std 0.01, {name} entropy", proportion(one < 1.1), share))
    for std in data["std"].values:
        difference = _difference(data).sel(std=std)
        change, error = mean(difference.sel(time=T).values)
        quantity = f"change of the mean effective rank by the entropy at T = 100, std {std:g}"
        way = "no change" if abs(change) < 3 * error else "lower" if change < 0 else "higher"
        turned = change * float(difference.sel(time=T / 3, method="nearest").mean()) < 0
        note = "At a third of that time it has the other sign: there is no equilibrium to wait for." if turned else ""
        if std == STDS[0]:
            rows.append(Number(quantity, "tighter at rank 1", change, error, verdict(way == "lower"), note=note))
        else:
            rows.append(Number(quantity, "mixed", change, error, f"mixed, {way}", note=note))
    return rows


FIGURE = Figure(
    "4.5b",
    "The entropy in the completion energy: a help for small starts, mixed for others",
    500,
    compute,
    draw,
    numbers,
    text="(a) The effective rank at t = 100 of the flow of (4.21) (left halves) and of (4.21) - S/20 (right "
    "halves) from the same starts. (b) What the entropy changes on average in the course of time. There is no "
    "equilibrium to wait for: E - S/beta is unbounded below, its flow drifts off along [[1, a], [-a, 1]], and the "
    "sign of the effect depends on the size of the start and on the time at which it is read.",
    parameters="(4.21) and (4.21) - S/beta, beta = 20, d = 2, N = infinity, X_ij ~ N(0, std^2), at t = 100, 500 "
    "starts, the same for both and for all std",
)
