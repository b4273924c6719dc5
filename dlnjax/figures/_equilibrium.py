"""Figure 6.8, beyond the thesis: does noise help? The equilibrium of a completion against the limits of its flow."""

from typing import NamedTuple

import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Noise, sweep
from dlnjax.figures._brownian import lost_paths
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, lettered, mean, measured, Number, shown_depth, verdict
from dlnjax.figures._temperature import energy, Grid, rank_of
from dlnjax.figures._two_by_two import limits
from dlnjax.plot import new_figure

DEPTHS = (2.0, 2.5, 3.0, 5.0, 10.0, 20.0, np.inf)
SIZES = (1e-3, 1e-2, 1e-1, 0.3, 1.0)
# Depths of the quadrature. At depth 2 the volume of the large matrices is infinite, by a logarithm.
LINE = (2.1, 2.2, 2.35, 2.5, 2.75, 3.0, 3.5, 4.0, 5.0, 7.0, 10.0, 20.0, 50.0, 100.0)
# Paths at one depth and temperature. Very large matrices would need very short steps: the density has the further
# factor exp(-(HELD/2) |X|^2) there, which hardly changes the rank.
DEPTH, BETA, HELD, DT = 3.0, 10.0, 0.1, 0.02
TRACE = np.linspace(0.0, 160.0, 41)
SETTLED = 80.0
BETAS = (1.0, 3.0, 10.0, 30.0)
STARTS = ("limit of a small start", "identity")
# The number of points of q and of each part of sigma_2, and the logarithm of the largest value.
ROWS, POINTS, TOP = 1500, 200, 60.0


class Cold(NamedTuple):
    """Points (sigma_1, sigma_2) and X_12 - X_21 of solutions, sigma_2 with the sign of det X, and their weights."""

    first: np.ndarray
    second: np.ndarray
    skew: np.ndarray
    weight: np.ndarray

    def mean_rank(self) -> float:
        return float(np.sum(self.weight * rank_of(self.first, abs(self.second))))

    def tilt(self) -> np.ndarray:
        """| |X_12| - |X_21| | / (|X_12| + |X_21|), which is 0 where both are equal, and 1 where one is 0."""
        total = self.first - self.second
        return np.minimum(total, self.skew) / np.maximum(total, self.skew)

    def share_of_tilt_below(self, level: float) -> float:
        return float(np.sum(self.weight[self.tilt() < level]))


def cold(depth: float, held: float = 0.0) -> Cold:
    """The equilibrium of E = (X_11 - 1)^2 + (X_22 - 1)^2 as beta grows: the volume of the metric on the solutions.

    The coordinates are q = |X_12 - X_21| and y = N sigma_2^(1/N). With sigma_1 + sigma_2 = sqrt(q^2 + 4) the density is
    sigma_1^-(1-1/N) / lambda_12, times exp(-(held/2) |X|^2).
    """
    u, v = middles(ROWS), middles(POINTS)
    q, dq = np.sinh(TOP * u**3), 3 * TOP * u**2 * np.cosh(TOP * u**3)
    half = np.sqrt(q**2 / 4 + 1)[:, None]
    # |sigma_2| below half is a power of uniform points, with both signs. Further out sigma_2 is negative alone.
    inner, outer = half * np.maximum(v**depth, 1e-290), half * np.exp(TOP * v)
    second = np.concatenate([inner, -inner, -outer], axis=1)
    width = half ** (1 / depth) + 0 * v
    steps = np.concatenate([width, width, TOP / depth * outer ** (1 / depth)], axis=1)
    first = 2 * half - second
    gap = np.maximum(np.log(first / abs(second)), 1e-9)
    eigenvalue = first ** (2 - 2 / depth) * np.expm1(-2 * gap) / np.expm1(-2 * gap / depth) / depth
    weight = steps * dq[:, None] * first ** (1 / depth - 1) / eigenvalue
    weight = weight * np.exp(-held / 2 * (first**2 + second**2))
    return Cold(first, second, np.broadcast_to(q[:, None], first.shape), weight / weight.sum())


def middles(n: int) -> np.ndarray:
    """The middles of n equal parts of (0, 1)."""
    return (np.arange(n) + 0.5) / n


def rank_of_matrix(x: np.ndarray) -> np.ndarray:
    sigma = np.linalg.svd(x, compute_uv=False)
    return rank_of(sigma[..., 0], sigma[..., 1])


def paths(key, starts):
    """(X at the times of `TRACE`, whether each path has reached the last one), at `DEPTH` and `BETA`."""
    options = {"depth": DEPTH, "ts": TRACE, "noise": Noise(key, BETA, DT), "progress": False}
    sol = sweep(energy(HELD / BETA), starts, **options)
    return np.asarray(sol.x), np.asarray(sol.result == "successful")


def compute(key, seeds: int) -> xarray.Dataset:
    first, second = split(key)
    draws = normal(first, (seeds, 2, 2))
    starts = (np.array(SIZES)[:, None, None, None] * draws).reshape(-1, 2, 2)
    ends = limits(np.tile(starts, (len(DEPTHS), 1, 1)), np.repeat(DEPTHS, len(starts)))[0]
    ends = ends.reshape(len(DEPTHS), len(SIZES), seeds, 2, 2)
    low = ends[DEPTHS.index(DEPTH), 0]
    x, finished = paths(second, np.concatenate([low, np.broadcast_to(np.eye(2), low.shape)]))
    # The flow goes on from where the noise is switched off.
    quenched = limits(x[:, -1], np.full(len(x), DEPTH))[0]
    line = [cold(depth) for depth in LINE]
    return xarray.Dataset(
        {
            "x": (("depth", "size", "seed", "row", "column"), ends, {"long_name": "limit of the flow"}),
            "rank": (("start", "seed", "time"), rank_of_matrix(x).reshape(len(STARTS), seeds, -1)),
            "quenched": (("start", "seed", "row", "column"), quenched.reshape(len(STARTS), seeds, 2, 2)),
            "finished": ("any_path", finished),
            "cold": ("line", [one.mean_rank() for one in line], {"long_name": "mean effective rank as beta grows"}),
            "held": ("beta", [Grid.at(DEPTH, beta, False, HELD / beta).mean_rank() for beta in BETAS]),
        },
        coords={
            "depth": list(DEPTHS),
            "size": list(SIZES),
            "start": list(STARTS),
            "time": TRACE,
            "line": list(LINE),
            "beta": list(BETAS),
        },
        attrs={"energy": "(X_11 - 1)^2 + (X_22 - 1)^2", "start": "size times N(0, 1)", "dt": DT},
    )


def flow_rank(data: xarray.Dataset, depth: float) -> np.ndarray:
    """The effective rank of the limits, `size seed`."""
    return rank_of_matrix(data["x"].sel(depth=depth).values)


def crossing(data: xarray.Dataset, depth: float) -> float:
    """The size of the start from which the flow ends at the mean effective rank of the equilibrium."""
    means = flow_rank(data, depth).mean(1)
    return float(np.exp(np.interp(cold(depth).mean_rank(), means, np.log(SIZES))))


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    ranks, traces, tilts = figure.subplots(1, 3)
    for size, color, marker in zip(SIZES, ("C0", "C1", "C2", "C3", "C4"), "os^Dv", strict=False):
        seen = np.array([mean(flow_rank(data.sel(size=[size]), depth)[0]) for depth in DEPTHS]).T
        label = f"flow, size {size:g}"
        style = {"fmt": marker + ":", "color": color, "ms": 3, "lw": 0.7, "label": label}
        ranks.errorbar(1 / np.array(DEPTHS), seen[0], 2 * seen[1], **style)
    depths, cold_rank = np.append(1 / data["line"].values, 0.0), np.append(data["cold"].values, 1.0)
    ranks.plot(depths, cold_rank, color="black", lw=1.2, label="equilibrium")
    ranks.set(xlabel="$1/N$", ylabel="effective rank", title=r"against depth, $\beta \to \infty$", ylim=(0.98, 2.1))
    ranks.legend(loc="upper left", fontsize=6)
    exact = float(data["held"].sel(beta=BETA))
    for start, color in zip(STARTS, ("C0", "C4"), strict=True):
        one = data["rank"].sel(start=start)
        traces.plot(TRACE, one.mean("seed"), color=color, lw=0.9, label=f"from the {start}")
    traces.axhline(exact, color="black", lw=1.2)
    traces.set(xlabel="time $t$", ylabel="effective rank", ylim=(0.98, 2.0))
    traces.set_title(rf"with noise, $N = {shown_depth(DEPTH)}$, $\beta = {BETA:g}$")
    traces.legend(loc="upper right", fontsize=6)
    levels = np.linspace(0.0, 1.0, 51)
    for depth, color in ((3.0, "C1"), (10.0, "C2"), (100.0, "C3")):
        one = cold(depth)
        tilts.plot(levels, [one.share_of_tilt_below(level) for level in levels], color=color, lw=0.9)
        tilts.lines[-1].set_label(f"$N = {shown_depth(depth)}$")
    tilts.plot(levels, levels, color="black", lw=0.9, ls=":", label=r"$N \to \infty$")
    one, other = np.abs(data["x"].sel(depth=3.0).isel(size=0).values[:, [0, 1], [1, 0]]).T
    of_flow = np.sort(np.abs(one - other) / (one + other))
    steps = np.linspace(0, 1, len(of_flow))
    tilts.step([0, *of_flow, 1], [0, *steps, 1], color="C0", lw=0.9, ls="--", label="flow, $N = 3$")
    tilts.set(xlabel=r"tilt $\tau$", ylabel="share below", title="where on the solutions")
    tilts.legend(loc="lower right", fontsize=6)
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for depth in DEPTHS[1:-1]:
        rank = cold(depth).mean_rank()
        rows.append(measured(f"effective rank in equilibrium, beta to infinity, N = {depth:g}", (rank, 0.0)))
        name = f"size of the start from which the flow ends at this rank, N = {depth:g}"
        rows.append(measured(name, (crossing(data, depth), 0.0)))
        here = mean(flow_rank(data, depth)[0])
        # The smaller the start, the lower the rank, and the equilibrium does not depend on it.
        name = f"effective rank of limits of the flow, size {SIZES[0]:g}, N = {depth:g}"
        rows.append(Number(name, "-", *here, verdict(here[0] < rank)))
    fall = crossing(data, 5.0) / crossing(data, 20.0)
    name = "power of N with which this size falls, N = 5 to 20"
    rows.append(measured(name, (float(np.log(fall) / np.log(4.0)), 0.0)))
    here = mean(flow_rank(data, 2.0)[0])
    rows.append(measured(f"effective rank of limits of the flow, size {SIZES[0]:g}, N = 2", here))
    rows.append(
        measured(f"effective rank, beta to infinity, held by {HELD:g}, N = 2", (cold(2.0, HELD).mean_rank(), 0.0))
    )
    deep = cold(100.0)
    rows.append(measured("N^2 times (effective rank - 1) in equilibrium, N = 100", (1e4 * (deep.mean_rank() - 1), 0.0)))
    for depth in (3.0, 10.0, 100.0):
        share = cold(depth).share_of_tilt_below(0.5)
        row = measured(f"share of the equilibrium with a tilt below 1/2, N = {depth:g}", (share, 0.0))
        # As N grows the tilt becomes uniform. At a small depth nothing is derived.
        rows.append(row._replace(expected=0.5, verdict=verdict(abs(share - 0.5) < 0.01)) if depth == 100 else row)
    norm = float(np.sum(deep.weight * (deep.first + abs(deep.second))))
    name = "mean nuclear norm in equilibrium, N = 100"
    rows.append(Number(name, "-", norm, 0.0, verdict(abs(norm / np.pi - 1) < 0.05), np.pi))
    sigma = np.linalg.svd(data["x"].sel(depth=3.0).isel(size=0).values, compute_uv=False)
    rows.append(measured(f"mean nuclear norm of limits of the flow, size {SIZES[0]:g}, N = 3", mean(sigma.sum(-1))))
    held = f"held by {HELD:g}, N = {DEPTH:g}"
    for beta in BETAS:
        value = float(data["held"].sel(beta=beta))
        rows.append(measured(f"effective rank in equilibrium by quadrature, beta = {beta:g}, {held}", (value, 0.0)))
    settled = data["rank"].sel(time=slice(SETTLED, None)).mean("time")
    exact = f"{float(data['held'].sel(beta=BETA)):.4f}"
    for start in STARTS:
        name = f"effective rank of paths from t = {SETTLED:g} on, from the {start}, beta = {BETA:g}, {held}"
        rows.append(measured(name, mean(settled.sel(start=start).values), exact, expected_error=0.0))
    quenched = rank_of_matrix(data["quenched"].values).ravel()
    rows.append(measured(f"effective rank where the flow ends after the noise, N = {DEPTH:g}", mean(quenched)))
    return [*rows, lost_paths(data)]


FIGURE = Figure(
    "6.8",
    "Does noise help? The equilibrium of a completion against the limits of its flow (beyond the thesis)",
    200,
    compute,
    draw,
    numbers,
    text="The diagonal of a 2 x 2 matrix is seen, and is 1. (a) The mean effective rank of the equilibrium as the "
    "temperature falls to 0, by quadrature (line), and of the limits of the flow from Gaussian starts (marks, 2 s.e.). "
    "The equilibrium is below large starts and above small ones. (b) Paths with noise from the limits of small starts "
    "and from the identity: both come to the same rank (line: quadrature). (c) The tilt of the solutions, the "
    "difference of |X_12| and |X_21| over their sum: noise spreads it evenly in deep networks, and small starts end "
    "near 0.",
    parameters="N = 2 to infinity, starts of sizes 1e-3 to 1; paths: N = 3, beta = 10, with (0.1/(2 beta)) |X|^2, "
    "steps of 0.02 to t = 160; 200 starts or paths each",
    counted="random starts of each size, and paths",
    source="the quadrature of the density, or the limit derived on the page",
)
