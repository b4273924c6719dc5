"""Figure 5.8, beyond the thesis: noise on the factors of a network, and the entropy that it makes of the gauge."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Float
from matplotlib.figure import Figure as Drawing

from dlnjax import balanced_factors, network_flow, Noise, SpectralEnergy, sweep
from dlnjax._compile import compiled
from dlnjax.figures._brownian import coordinate, LEAST, lost_paths
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, mean, measured, Number, verdict
from dlnjax.figures._thermal import A, WeightDecay
from dlnjax.plot import new_figure

DEPTHS = (2, 3)
BETA = 1.0
# All paths start at one matrix, with y about as large as in equilibrium, and forget it by exp(-2 a t) in y^2.
START, END = (2.0, 0.6), 3.0
# The error of a step is of first order upstairs, and of second order downstairs.
DT = {"upstairs": 0.0125, "downstairs": 0.05}
# The densities are integrated by the midpoint rule on so many cells a side up to this y, beyond which lies nothing.
CELLS, FARTHEST = 1200, 9.0


def density(depth: int, entropic: bool) -> Float[np.ndarray, "cells cells"]:
    """exp(-beta E) V exp(S), or without exp(S), at the midpoints of the cells in (y_1, y_2), y_1 > y_2, with sum 1.

    V = y_1^2 - y_2^2, and exp(2 S) is lambda_12 up to a constant, (y_1^(2N) - y_2^(2N))/(y_1^2 - y_2^2).
    """
    y = (np.arange(CELLS) + 0.5) * FARTHEST / CELLS
    first, second = np.meshgrid(y, y, indexing="ij")
    gap = first**2 - second**2
    inside = gap > 0
    eigenvalue = np.where(inside, first ** (2 * depth) - second ** (2 * depth), 0) / np.where(inside, gap, 1)
    mass = np.exp(-BETA * A / 2 * (first**2 + second**2)) * np.where(inside, gap, 0)
    mass = mass * np.sqrt(eigenvalue) if entropic else mass
    return mass / mass.sum()


def laws() -> dict[str, tuple]:
    """The distribution functions of both values at the ends of the cells, with the entropy and without."""
    of = [[density(depth, entropic) for entropic in (True, False)] for depth in DEPTHS]
    # The sum over one value leaves the law of the other.
    sums = np.array([[[np.cumsum(mass.sum(1 - k)) for k in (0, 1)] for mass in row] for row in of])
    start = np.zeros((*sums.shape[:-1], 1))
    name = {"long_name": "share of the density below y"}
    return {"law": (("depth", "entropic", "value", "y_end"), np.concatenate([start, sums], -1), name)}


def upstairs(key, depth: int, x0, n: int):
    """(X at the end, whether it was reached) of n paths of the factors."""
    weights = balanced_factors(x0, depth)
    energy = SpectralEnergy(WeightDecay(jnp.asarray(float(depth))))

    def one(key):
        noise = Noise(key, BETA, DT["upstairs"])
        sol = network_flow(energy, weights, ts=(0.0, END), noise=noise, throw=False)
        return sol.x[-1], sol.result == "successful"

    return compiled(jax.vmap(one))(jax.random.split(key, n))


def downstairs(key, depth: int, x0, n: int):
    """(X at the end, whether it was reached) of n paths of X with the force of the entropy."""
    energy = SpectralEnergy(WeightDecay(jnp.asarray(float(depth))))
    noise = Noise(key, BETA, DT["downstairs"], gauge=True)
    starts = np.broadcast_to(x0, (n, 2, 2))
    sol = sweep(energy, starts, depth=float(depth), ts=(0.0, END), noise=noise, progress=False)
    return np.asarray(sol.x)[:, -1], sol.result == "successful"


def compute(key, seeds: int) -> xarray.Dataset:
    frame_key, up_key, down_key = split(key, 3)
    u, v = np.linalg.qr(normal(frame_key, (2, 2, 2)))[0]
    y, finished = np.empty((2, len(DEPTHS), seeds, 2)), np.empty((2, len(DEPTHS), seeds), bool)
    for i, (run, run_key) in enumerate(((upstairs, up_key), (downstairs, down_key))):
        for k, (depth, one) in enumerate(zip(DEPTHS, split(run_key, len(DEPTHS)), strict=True)):
            x0 = jnp.asarray((u * (np.array(START) / depth) ** depth) @ v.T)
            x, done = map(np.asarray, run(one, depth, x0, seeds))
            y[i, k], finished[i, k] = coordinate(np.linalg.svd(x, compute_uv=False), depth), done
    return xarray.Dataset(
        {
            "y": (("noise", "depth", "path", "value"), y, {"long_name": "N sigma^(1/N) at the end"}),
            "finished": (("noise", "depth", "path"), finished),
            **laws(),
        },
        coords={
            "noise": list(DT),
            "depth": list(DEPTHS),
            "value": [1, 2],
            "entropic": [1, 0],
            "y_end": np.linspace(0, FARTHEST, CELLS + 1),
        },
        attrs={"energy": "(a/2) sum y^2, y = N sigma^(1/N)", "a": A, "beta": BETA, "end": END, "start": f"y = {START}"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.9)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    y, bins = data["y_end"].values, np.linspace(0, 6, 46)
    middle = (bins[:-1] + bins[1:]) / 2
    for ax, depth in zip(axes, DEPTHS, strict=True):
        one = data.sel(depth=depth)
        for k in (1, 2):
            first = k == 1
            up = one["y"].sel(noise="upstairs", value=k).values
            label = "noise on the factors" if first else None
            ax.hist(up, bins, density=True, color="C0", alpha=0.4, lw=0, label=label)
            down, _ = np.histogram(one["y"].sel(noise="downstairs", value=k).values, bins, density=True)
            label = "noise on $X$, with gauge" if first else None
            seen = down > 0
            ax.plot(middle[seen], down[seen], "o", color="C1", mfc="none", mew=0.8, markersize=2.8, label=label)
            for entropic, style in ((1, "-"), (0, "--")):
                slope = np.gradient(one["law"].sel(entropic=entropic, value=k).values, y)
                power = r"e^{-\beta E}\,V" + r"\,e^{S}" * entropic
                label = f"${power}$" if first else None
                ax.plot(y, slope, style, color="black", lw=0.9, label=label)
        for k, place in ((1, (2.9, 0.42)), (2, (0.55, 1.02))):
            ax.annotate(f"$y_{k}$", place)
        ax.set(ylabel="density", xlim=(0, 6), ylim=(0, 1.3))
        ax.set_title(rf"$N = {depth}$, $d = 2$, $\beta = {BETA:g}$")
    axes[0].legend(loc="upper right", fontsize=6.5)
    for ax in axes:
        ax.set_xlabel(r"$y_k = N\sigma_k^{1/N}$")
    return figure


def kolmogorov_smirnov(values, ends, law) -> tuple[float, float]:
    """(the distance of the values from a law given at the ends of the cells, its p-value)."""
    from scipy.stats import kstest

    distance, p = map(float, tuple(kstest(values, lambda y: np.interp(y, ends, law))))
    return distance, p


def numbers(data: xarray.Dataset) -> list[Number]:
    rows, ends = [], data["y_end"].values
    for depth in DEPTHS:
        for noise in DT:
            for k in (1, 2):
                values = data["y"].sel(noise=noise, depth=depth, value=k).values
                law = data["law"].sel(depth=depth, value=k, entropic=1).values
                _, p = kolmogorov_smirnov(values, ends, law)
                name = f"N = {depth}, noise {noise}: Kolmogorov-Smirnov p-value of y_{k}"
                rows.append(Number(name, "-", p, 0.0, verdict(p > LEAST)))
    for depth in DEPTHS:
        with_it, without = (data["law"].sel(depth=depth, value=1, entropic=e).values for e in (1, 0))
        for noise in DT:
            values = data["y"].sel(noise=noise, depth=depth, value=1).values
            expected = f"{float(np.sum(np.diff(with_it) * (ends[:-1] + ends[1:]) / 2)):.3f}"
            rows.append(
                measured(f"N = {depth}, noise {noise}: mean of y_1", mean(values), expected, expected_error=0.0)
            )
        values = data["y"].sel(noise="upstairs", depth=depth, value=1).values
        distance, _ = kolmogorov_smirnov(values, ends, without)
        # At the place of the largest distance a distribution function of n draws is off by at most this much.
        error = 0.5 / np.sqrt(len(values))
        expected = f"{float(np.max(np.abs(with_it - without))):.3f}"
        name = f"N = {depth}, noise upstairs: Kolmogorov-Smirnov distance of y_1 from the law without the entropy"
        rows.append(measured(name, (distance, error), expected, expected_error=0.0))
    return [*rows, lost_paths(data)]


FIGURE = Figure(
    "5.8",
    "The entropy appears: noise on the factors and noise on their product (beyond the thesis)",
    4000,
    compute,
    draw,
    numbers,
    text="Isotropic noise on the factors of a balanced network moves the gauge as well as X. Weight decay "
    "E = (a/2) sum y^2 with y = N sigma^(1/N) at temperature 1/beta, d = 2, N = 2 and 3. Filled: singular values of "
    "the product of the factors, from paths of network_flow with noise. Circles: paths of gradient_flow, in X alone, "
    "with the force of the entropy (gauge=True). Solid lines: the density exp(-beta E) V exp(S) by quadrature, where V "
    "is the volume of the metric downstairs and exp(S) the volume of the gauge orbit. Dashed: without exp(S), the law "
    "of noise on X alone, which does not depend on N. The entropy pushes the larger value up, and more so in deeper "
    "networks. No term for it is in the equation of the factors.",
    parameters="N = 2, 3, d = 2, a = beta = 1, 4000 paths at each depth, of the factors and of X, from y = (2, 0.6), "
    "seen at t = 3, steps of 0.0125 upstairs and 0.05 downstairs",
    source="a quadrature of the density",
    counted="paths at each depth, of the factors and of X",
)
