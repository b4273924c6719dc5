"""Figure 4.5a: an energy of the singular values, less the entropy, has one equilibrium: the isotropic one."""

import numpy as np
import xarray
from matplotlib import colormaps
from matplotlib.figure import Figure as Drawing

from dlnjax import FreeEnergy, RESULTS, Schatten, Steady, sweep
from dlnjax.figures._draws import normal_of_each
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, share, shown_depth, verdict
from dlnjax.figures._shapes import sigma_of, times
from dlnjax.plot import new_figure

D, BETA = 10, 1.0
POWERS, DEPTHS = (1.0, 1.5, 2.0, 3.0), (2.0, 3.0, 10.0, np.inf)


def isotropic(p, depth):
    """The equilibrium of Theorem 4.3.7 by (4.75), with the factor 1 - 1/N that it needs at finite depth."""
    return ((D - 1) * (1 - 1 / depth) / (2 * BETA)) ** (1 / p)


def compute(key, seeds: int) -> xarray.Dataset:
    shape = (len(POWERS), len(DEPTHS), seeds)
    p, depth = (
        np.broadcast_to(a, shape).ravel() for a in (np.reshape(POWERS, (-1, 1, 1)), np.reshape(DEPTHS, (-1, 1)))
    )
    starts = D**-0.5 * normal_of_each(key, seeds, (D, D))
    starts = np.broadcast_to(starts, (*shape, D, D)).reshape(-1, D, D)
    energy = FreeEnergy(Schatten(p), np.full(len(p), BETA), depth)
    # The limit is known exactly, so that the flow is computed to high accuracy.
    options = {"rtol": 1e-8, "atol": 1e-10, "stop": Steady(1e-9), "observe": sigma_of}
    sol = sweep(energy, starts, depth=depth, ts=times(1e-2, 100.0), **options)
    of_run = lambda values: np.asarray(values).reshape(*shape, *np.shape(values)[1:])
    runs = ("p", "depth", "seed")
    return xarray.Dataset(
        {
            "sigma": ((*runs, "time", "mode"), of_run(sol.sigma), {"long_name": "singular values, descending"}),
            "converged": (runs, of_run(sol.result == RESULTS.steady), {"long_name": "|dF| <= 1e-9"}),
        },
        coords={"p": list(POWERS), "depth": list(DEPTHS), "time": np.asarray(sol.ts)},
        attrs={"energy": "E_p - S_N/beta, thesis (4.70)", "beta": BETA, "d": D, "start": "X_ij ~ N(0, 1/d)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    ax, limits = figure.subplots(1, 2)
    one = data["sigma"].sel(p=2.0, depth=np.inf)
    colors = colormaps["viridis"](np.linspace(0, 0.85, D))
    for mode, color in enumerate(colors):
        ax.plot(one["time"], one.isel(seed=0, mode=mode), color=color, lw=0.9)
    first, last = one.isel(seed=0, time=0).values[[0, -1]]
    for name, height, color in ((r"$\sigma_1$", first, colors[0]), (rf"$\sigma_{{{D}}}$", last, colors[-1])):
        label = {"textcoords": "offset points", "color": color, "fontsize": 7}
        ax.annotate(name, (1e-2, height), (3, 3), **label)
    ax.axhline(isotropic(2.0, np.inf), color="C1", lw=0.9, ls="--")
    ax.set(xscale="log", yscale="log", xlabel=r"time $t$ (1/N-normalised flow)", ylabel=r"singular values $\sigma_i$")
    ax.set(xlim=(1e-2, 10))
    ax.set_title(rf"$d = {D}$, $\beta = {BETA:.0f}$, $p = 2$, $N = \infty$; dashed: (4.75)")
    line = np.linspace(0.95, 3.1, 200)
    for depth, color in zip(DEPTHS, ("C3", "C4", "C2", "C0"), strict=True):
        limit = data["sigma"].sel(depth=depth).isel(time=-1).stack(all=("seed", "mode"))
        off = limit.max("all") - limit.mean("all"), limit.mean("all") - limit.min("all")
        limits.errorbar(data["p"], limit.mean("all"), off, fmt="o", color=color)
        limits.plot(line, isotropic(line, depth), color=color, lw=0.8)
        name = shown_depth(depth)
        label = {"ha": "right", "textcoords": "offset points", "va": "center", "color": color, "fontsize": 7}
        limits.annotate(f"$N = {name}$", (0.95, isotropic(0.95, depth)), (-3, 0), **label)
    limits.set(xlabel=r"power $p$ of the energy", ylabel=r"limit of every $\sigma_i$", xlim=(0.55, 3.15))
    limits.set_title(r"points: all starts; lines: exact")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    limit = data["sigma"].isel(time=-1)
    printed = limit.sel(p=2.0, depth=np.inf)
    value, exact = mean(printed.mean("mode").values), float(isotropic(2.0, np.inf))
    expected = isotropic(data["p"], data["depth"])
    off = abs(limit / expected - 1).max("mode")
    stop = (
        "What is left is the error of the integration, at rtol 1e-8 and stopped at |dF| = 1e-9; the starts agree in it."
    )
    said = "exactly as expected"
    return [
        Number(
            "sigma in the limit, p = 2, N = inf", said, *value, verdict(abs(value[0] / exact - 1) < 1e-6), exact, stop
        ),
        measured("its log10", mean(np.log10(printed.values).mean(-1)), "0.3266", "0.33", expected_error=0.0),
        measured(
            "relative spread of sigma_1 to sigma_10 in that limit",
            mean(np.ptp(printed.values, axis=-1) / printed.values.mean()),
        ),
        Number(
            "largest relative distance from ((d-1)(1-1/N)/(2 beta))^(1/p), all p and N",
            "-",
            float(off.max()),
            0.0,
            verdict(float(off.max()) < 1e-6),
            0.0,
            stop,
        ),
        measured("share that converged", share(data["converged"].values.ravel())),
    ]


FIGURE = Figure(
    "4.5a",
    "With the entropy, an energy of the singular values flows to an isotropic matrix",
    10,
    compute,
    draw,
    numbers,
    text="(a) The singular values of one start under F = E_p - S_N/beta: they meet at the value of (4.75). (b) "
    "That limit for several powers p and depths N; the bars would show the spread over starts and singular values, "
    "and are smaller than a point. The value is ((d - 1) (1 - 1/N) / (2 beta))^(1/p): at finite depth it has a "
    "factor 1 - 1/N, which the thesis leaves out.",
    parameters="E_p - S_N/beta, beta = 1, d = 10, N = 2, 3, 10, infinity, p = 1, 1.5, 2, 3, X_ij ~ N(0, 1/d), to |dF| "
    "<= 1e-9 or t = 100, 10 starts, the same for all",
    source="(4.75), with the factor 1 - 1/N",
)
