"""Figure 5.4, beyond the thesis: a teacher of 15 x 8 is learnt mode by mode, against the exact solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import SVD, sweep
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, mean, measured, Number, shown_depth, vanishing
from dlnjax.plot import new_figure

M, N = 15, 8
MODES = (4.0, 2.0, 1.0, 0.5)
DEPTHS = (1.0, 2.0, 3.0, np.inf)
SIGMA = 0.01
# The fractions of each mode at which the exact solution is marked.
LEVELS = (0.1, 0.5, 0.9)
TIMES = np.append(0.0, np.geomspace(0.02, 400.0, 240))


def time_to(sigma: float, target: float, depth: float) -> float:
    """The time in which sigma' = sigma^(2-2/N) (s - sigma) goes from the start to sigma: Saxe et al. 2014, at any N."""
    from scipy.integrate import quad

    # In log sigma the integrand is smooth however small the start is.
    slowness = lambda log: np.exp(log * (2 / depth - 1)) / (target - np.exp(log))
    return quad(slowness, np.log(SIGMA), np.log(sigma), epsrel=1e-12, limit=200)[0]


def compute(key, seeds: int) -> xarray.Dataset:
    left_key, right_key, start_key = split(key, 3)
    u, _ = np.linalg.qr(normal(left_key, (M, N)))
    v, _ = np.linalg.qr(normal(right_key, (N, N)))
    modes = len(MODES)
    teacher = jax.device_put((u[:, :modes] * np.array(MODES)) @ v[:, :modes].T)
    # The first start of each depth has the frames of the teacher, the others are random and about as large.
    drawn = normal(start_key, (seeds, M, N)) * SIGMA / np.sqrt(M)
    random = np.linalg.svd(drawn, full_matrices=False)
    starts = [
        np.concatenate([first[None], others])
        for first, others in zip((u, np.full(N, SIGMA), v), (random[0], random[1], random[2].mT), strict=True)
    ]
    x0 = SVD(*(jax.device_put(np.tile(part, (len(DEPTHS),) + (1,) * (part.ndim - 1))) for part in starts))
    exact = np.array([[[time_to(a * s, s, depth) for a in LEVELS] for s in MODES] for depth in DEPTHS])
    ts = np.unique(np.append(TIMES, exact))
    in_modes = lambda p: jnp.sum((u[:, :modes].T @ p.u) * p.sigma * (v[:, :modes].T @ p.v), axis=1)
    sol = sweep(
        lambda x: jnp.sum((x - teacher) ** 2) / 2,
        x0,
        depth=np.repeat(DEPTHS, seeds + 1),
        ts=ts,
        rtol=1e-8,
        observe=in_modes,
        # The flows of one depth take about as long. In larger chunks the fast ones would wait for the slow ones.
        chunk=seeds + 1,
        progress=False,
    )
    learnt = np.asarray(sol.observed).reshape(len(DEPTHS), seeds + 1, len(ts), modes)
    return xarray.Dataset(
        {
            "aligned": (("depth", "time", "mode"), learnt[:, 0], {"long_name": "u^T X v from the teacher's frames"}),
            "random": (("depth", "seed", "time", "mode"), learnt[:, 1:], {"long_name": "u^T X v from random starts"}),
            "exact_time": (("depth", "mode", "level"), exact, {"long_name": "time of each level, exact"}),
        },
        coords={"depth": list(DEPTHS), "time": ts, "mode": list(MODES), "level": list(LEVELS)},
        attrs={"energy": "1/2 |X - M|^2", "teacher": f"{M} x {N}", "start": f"sigma = {SIGMA}"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.6)
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    level = data["level"].values
    for ax, depth in zip(axes.flat, DEPTHS, strict=True):
        for k, (s, marker) in enumerate(zip(MODES, ("o", "s", "^", "D"), strict=True)):
            one = data.sel(depth=depth, mode=s).isel(time=slice(1, None))
            ax.plot(one["time"], one["random"].T, color=f"C{k}", lw=0.4, alpha=0.35)
            ax.plot(one["time"], one["aligned"], color=f"C{k}", lw=1.4)
            ax.plot(one["exact_time"], s * level, marker, color=f"C{k}", mfc="white", mew=0.9, markersize=3.5)
        ax.set_title(f"$N = {shown_depth(depth)}$")
    for k, s in enumerate(MODES):
        label = f"$s = {s:g}$"
        axes[0, 0].annotate(
            label, (TIMES[-1], s), (0, 2), textcoords="offset points", ha="right", color=f"C{k}", fontsize=7
        )
    axes[0, 0].set(xscale="log", xlim=(0.03, TIMES[-1]), xticks=(0.1, 1, 10, 100))
    for ax in axes[1]:
        ax.set_xlabel("time $t$")
    for ax in axes[:, 0]:
        ax.set_ylabel(r"learnt of a mode, $u^T X v$")
    return figure


def _half_time(time, values, target: float) -> float:
    """The first time at which the values reach half of the target, between two saved times; NaN if they never do."""
    after = int(np.argmax(values >= target / 2))
    if values[after] < target / 2:
        return np.nan
    (a, b), (t, s) = values[after - 1 : after + 1], time[after - 1 : after + 1]
    return float(t + (s - t) * (target / 2 - a) / (b - a))


def deviation(data: xarray.Dataset, depth: float) -> float:
    """The largest distance of the flow from the exact solution at the marks, relative to the mode."""
    off = [
        abs(data["aligned"].sel(depth=depth, mode=s, time=time).item() / s - level)
        for s in MODES
        for level, time in zip(LEVELS, data["exact_time"].sel(depth=depth, mode=s).values, strict=True)
    ]
    return max(off)


def numbers(data: xarray.Dataset) -> list[Number]:
    time, rows = data["time"].values, []
    for depth in DEPTHS:
        off = deviation(data, depth)
        quantity = f"largest deviation from the exact solution, of the mode, N = {depth:g}"
        rows.append(vanishing(quantity, off, 1e-5))
    for depth in DEPTHS:
        for s in MODES:
            here = _half_time(time, data["aligned"].sel(depth=depth, mode=s).values, s)
            exact = float(data["exact_time"].sel(depth=depth, mode=s, level=0.5))
            quantity = f"time at which the mode of {s:g} is half learnt, N = {depth:g}"
            rows.append(measured(quantity, (here, 0.0), f"{exact:.4g}"))
    for depth in DEPTHS:
        first, exact = MODES[0], float(data["exact_time"].sel(depth=depth, mode=MODES[0], level=0.5))
        paths = data["random"].sel(depth=depth, mode=first).values
        times = np.array([_half_time(time, path, first) for path in paths]) / exact
        quantity = f"the time of the mode of {first:g} from random starts, over the exact one, N = {depth:g}"
        if np.isfinite(times).all():
            rows.append(measured(quantity, mean(times)))
        else:
            note = f"{np.isfinite(times).sum()} of {len(times)} starts reach one half: the column space never turns."
            rows.append(Number(quantity, "-", np.nan, np.nan, "measured", note=note))
    return rows


FIGURE = Figure(
    "5.4",
    "A rectangular teacher is learnt mode by mode, at every depth (beyond the thesis)",
    6,
    compute,
    draw,
    numbers,
    text="What a network has learnt of each mode of a teacher of 15 x 8 with singular values s = 4, 2, 1 and 1/2, in "
    "time. One layer learns all modes at one rate; from depth 2 on the larger mode is learnt sooner, in steps that are "
    "the steeper and the later the deeper the network. The thick lines start in the frames of the teacher; the markers "
    "are the exact solution of one mode (Saxe, McClelland, Ganguli 2014, here at any depth). The thin lines start from "
    "small random matrices. At infinite depth the column space never turns: they learn only what of a mode lies "
    "in that of their start.",
    parameters="E = |X - M|^2 / 2, N = 1, 2, 3, infinity, all sigma = 0.01 at the start, or X_ij ~ N(0, 0.01^2/15), "
    "6 random starts; rtol 1e-8",
    counted="random starts at each depth",
    source="the exact solution of one mode",
)
