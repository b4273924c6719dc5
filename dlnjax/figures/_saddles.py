"""Figure 6.7, beyond the thesis: from saddle to saddle. When small starts leave 0, how well they are aligned, and
whether they follow the greedy path.
"""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float
from matplotlib.figure import Figure as Drawing
from scipy.integrate import quad

from dlnjax import gradient_flow, MatrixCompletion, Steady, SVD, sweep
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, lettered, mean, measured, median, Number, shown_depth, vanishing, verdict
from dlnjax.plot import new_figure

DEPTHS = (2.0, 3.0, np.inf)
COLORS, MARKERS = ("C3", "C1", "C0"), ("o", "s", "^")
TARGET = np.array([1.0, 0.6])
SIZES = 10.0 ** -np.arange(2, 31, 4)
# In the time of `OwnClock` sigma_1 grows by a factor e in about one unit: from 1e-30 it comes to 1 by 75.
CLOCK = np.linspace(0.0, 100.0, 1001)
# The time is taken where sigma_1 comes to half of its end, and the angle where X is still small beside the target.
ESCAPED, SMALL = 0.5, 0.05
# Seven of nine entries of a matrix of rank two are seen.
LABELS = np.array([[0.8, 1.2, -0.4], [0.1, 0.6, -0.5], [0.7, 0.6, 0.1]])
SEEN = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]], bool)
# On a saddle the flow waits for a time of about 1/size at infinite depth, with steps that its fast modes limit: the
# sizes are as small as these steps allow.
PATH_SIZES = {2.0: 10.0 ** -np.arange(1, 31, 4), 3.0: 10.0 ** -np.arange(1, 9.0), np.inf: 10.0 ** -np.arange(1, 4, 0.5)}
PATH_TIMES = {2.0: np.linspace(0.1, 600.0, 300), 3.0: np.geomspace(1, 1e6, 300), np.inf: np.geomspace(1, 1e6, 300)}
NUDGE = 1e-6


class OwnClock(eqx.Module):
    """E(X) = |X - target|^2 / 2, whose flow runs in a time tau of its own, dt = |X|^-(1-2/N) dtau.

    In tau the norm of a small X grows by a constant rate, so that one grid of times resolves a start of any size.
    `power` is 1 - 2/N.
    """

    target: Float[Array, "2 2"]
    power: Float[Array, "*n"]
    array_axes: ClassVar[dict[str, int]] = {"target": 2, "power": 0}

    def __call__(self, x: Float[Array, "2 2"]) -> Float[Array, "*n"]:
        return jnp.sum((x - self.target) ** 2, axis=(-2, -1)) / 2

    def gradient(self, x: Float[Array, "2 2"]) -> Float[Array, "2 2"]:
        return jnp.linalg.norm(x) ** -self.power * (x - self.target)


def leading(point: SVD):
    """sigma, and the tangents of the angles of u_1 and v_1 from the first axis."""
    return point.sigma, point.u[..., 1, 0] / point.u[..., 0, 0], point.v[..., 1, 0] / point.v[..., 0, 0]


def escapes(starts, depth):
    """The time at which sigma_1 = 1/2, and the tangents of u_1 and v_1 and log(sigma_1/sigma_2) at sigma_1 = 0.05."""
    power = 1 - 2 / depth
    sol = sweep(
        OwnClock(jnp.diag(jnp.asarray(TARGET)), jnp.asarray(power)),
        starts,
        depth=depth,
        ts=CLOCK,
        observe=leading,
        progress=False,
    )
    sigma, left, right = (np.asarray(one) for one in sol.observed)
    # The rate dt/dtau is nearly exponential in tau, and integrated as such between the saved times.
    rate = -power[:, None] * np.log(np.linalg.norm(sigma, axis=-1))
    fall = np.diff(rate)
    flat = np.abs(fall) < 1e-9
    pieces = np.exp(rate[:, :-1]) * np.where(flat, 1.0, np.expm1(fall) / np.where(flat, 1.0, fall)) * np.diff(CLOCK)
    time = np.concatenate([np.zeros((len(rate), 1)), np.cumsum(pieces, axis=1)], axis=1)
    height = np.log(sigma[..., 0])
    where = lambda level, values: np.array([np.interp(np.log(level), *one) for one in zip(height, values, strict=True)])
    ratio = height - np.log(sigma[..., 1])
    return where(ESCAPED, time), *(where(SMALL, values) for values in (left, right, ratio))


def aligned_time(size: float, depth: float, s: float = 1.0) -> float:
    """The time in which sigma' = sigma^(2-2/N) (s - sigma) comes from `size` to s/2, by a quadrature."""
    # With y = sigma/s and l = log y it is s^-(2-2/N) times the integral of e^(-p l)/(1 - e^l), p = 1 - 2/N, whose
    # first part e^(-p l) is done by hand.
    p, low, high = 1 - 2 / depth, np.log(size / s), np.log(0.5)
    first = high - low if p == 0 else (np.exp(-p * low) - np.exp(-p * high)) / p
    rest = quad(lambda l: np.exp((1 - p) * l) / -np.expm1(l), low, high, epsabs=1e-12, epsrel=1e-12, limit=500)[0]
    return float(s ** -(2 - 2 / depth) * (first + rest))


def greedy_path(depth: float) -> np.ndarray:
    """The points 0, X_1, X_2 of Li, Luo and Lyu's path: from each along the top singular pair of -dE, one rank more."""
    energy, x = MatrixCompletion(jnp.asarray(LABELS), SEEN), np.zeros((3, 3))
    path = [x]
    for rank in (1, 2):
        u, _, vt = np.linalg.svd(np.where(SEEN, LABELS - x, 0.0))
        u, sigma, vt = np.linalg.svd(x + NUDGE * np.outer(u[:, 0], vt[0]))
        thin = SVD(*map(jax.device_put, (u[:, :rank], sigma[:rank], vt[:rank].T)))
        x = np.asarray(gradient_flow(energy, thin, depth=depth, ts=[0.0, 1e5], stop=Steady(1e-10)).x)[-1]
        path.append(x)
    return np.stack(path)


def compute(key, seeds: int) -> xarray.Dataset:
    first, second = split(key)
    draws = normal(first, (seeds, 2, 2))
    depth, size = (a.ravel() for a in np.meshgrid(DEPTHS, SIZES, indexing="ij"))
    # One start more is aligned with the target: diag(1, 1/2).
    draws = np.concatenate([draws, np.diag([1.0, 0.5])[None]])
    depth, size = np.repeat(depth, len(draws)), np.repeat(size, len(draws))
    starts = size[:, None, None] * np.tile(draws, (len(DEPTHS) * len(SIZES), 1, 1))
    time, left, right, log_ratio = (one.reshape(len(DEPTHS), len(SIZES), -1) for one in escapes(starts, depth))
    # At infinite depth a start of rank one never turns, so that the path there is that of depth 3.
    path = np.stack([greedy_path(depth) for depth in (2.0, 3.0)])
    energy = MatrixCompletion(jnp.asarray(LABELS), SEEN)
    wide, nearest = normal(second, (seeds, 3, 3)), []
    for points, (each, sizes) in zip(path[[0, 1, 1]], PATH_SIZES.items(), strict=True):
        flow = sweep(
            energy,
            (sizes[:, None, None, None] * wide).reshape(-1, 3, 3),
            depth=np.full(len(sizes) * seeds, each),
            ts=np.append(0.0, PATH_TIMES[each]),
            stop=Steady(1e-7),
            # Flows from one size take about as long. In larger chunks the fast ones would wait for the slow ones.
            chunk=seeds,
            progress=False,
        )
        off = np.linalg.norm(np.asarray(flow.x)[:, None] - points[1:, None], axis=(-2, -1)).min(-1)
        of_size = off.reshape(len(sizes), seeds, 2).transpose(2, 0, 1)
        rows = np.full((2, max(map(len, PATH_SIZES.values())), seeds), np.nan)
        rows[:, : len(sizes)] = of_size
        nearest.append(rows)
    longest = max(map(len, PATH_SIZES.values()))
    path_size = np.stack([np.pad(s, (0, longest - len(s)), constant_values=np.nan) for s in PATH_SIZES.values()])
    cells = ("depth", "size", "start")
    return xarray.Dataset(
        {
            "time": (cells, time, {"long_name": "time at which sigma_1 = 1/2; the last start is diag(1, 1/2)"}),
            "left": (cells, left, {"long_name": "tangent of the angle of u_1 from the target where sigma_1 = 0.05"}),
            "right": (cells, right, {"long_name": "that of v_1"}),
            "log_ratio": (cells, log_ratio, {"long_name": "log(sigma_1/sigma_2) there"}),
            "path": (("path_depth", "step", "row", "column"), path, {"long_name": "the greedy path 0, X_1, X_2"}),
            "path_size": (("depth", "k"), path_size),
            "nearest": (("depth", "stop", "k", "seed"), np.stack(nearest), {"long_name": "least |X(t) - X_k|"}),
        },
        coords={"depth": list(DEPTHS), "size": SIZES},
        attrs={"target": "diag(1, 0.6)", "start": "size times N(0, 1)", "completion": "7 of 9 entries of rank two"},
    )


def scaled(data: xarray.Dataset) -> xarray.DataArray:
    """The escape time over that of one mode: size^-(1-2/N)/(1-2/N), and log(1/size) at N = 2."""
    power = 1 - 2 / data["depth"]
    beyond = data["size"] ** -power / power.where(power > 0, 1.0)
    return data["time"] / beyond.where(power > 0, -np.log(data["size"]))


def slopes(data: xarray.Dataset, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """(the slope of the log of the angle of u_1 at the smallest sizes, for each start, what it should be).

    The slope is taken in log size, and at infinite depth in log log(sigma_1/sigma_2). It should be (1 - s_2/s_1)/N. At
    infinite depth it is -(1 - s_2/s_1)/2 for small angles, and for others what the flow of rank one gives.
    """
    one = data.sel(depth=depth).isel(size=[-2, -1], start=slice(None, -1))
    x = np.log((one["log_ratio"] if np.isinf(depth) else one["size"]).values)
    sine = np.log(np.sin(np.arctan(np.abs(one["left"].values))))
    found = (sine[1] - sine[0]) / (x[1] - x[0])
    q = TARGET[1] / TARGET[0]
    if not np.isinf(depth):
        return found, np.full_like(found, (1 - q) / depth)
    a, b = one["left"], one["right"]
    return found, ((q * b / a - 1) / (1 + q * a * b) / 2).mean("size").values


def angle(one: xarray.Dataset) -> np.ndarray:
    """The median angle of u_1 from the target for each size."""
    return np.median(np.arctan(np.abs(one["left"].values[:, :-1])), axis=1)


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.7)
    times, angles, path = figure.subplots(1, 3)
    for depth, color, marker in zip(DEPTHS, COLORS, MARKERS, strict=True):
        one, name = data.sel(depth=depth), f"$N = {shown_depth(depth)}$"
        sizes = data["size"].values
        times.loglog(sizes, one["time"].isel(start=slice(None, -1)), marker, color=color, ms=2, mew=0, alpha=0.5)
        times.loglog(sizes, [aligned_time(size, depth) for size in sizes], color=color, lw=0.8, label=name)
        angles.loglog(sizes, angle(one), marker, color=color, ms=3, label=name)
        gap = 1 - TARGET[1] / TARGET[0]
        base = one["log_ratio"].isel(start=slice(None, -1)).median("start")
        law = (base / base[-1]) ** (-gap / 2) if np.isinf(depth) else (sizes / sizes[-1]) ** (gap / depth)
        angles.loglog(sizes, float(angle(one)[-1]) * law, color=color, lw=0.8)
        at = one["path_size"].values
        for stop, line, fill in ((0, "-", color), (1, ":", "white")):
            middle = one["nearest"].isel(stop=stop).median("seed")
            path.loglog(at, middle, marker + line, color=color, ms=3, lw=0.8, mfc=fill, label=name if not stop else "")
    times.set(xlabel="size of the start", ylabel=r"time until $\sigma_1 = 1/2$", title="escape from 0")
    angles.set(xlabel="size of the start", ylabel=r"angle of $u_1$ at $\sigma_1 = 0.05$", title="alignment on the way")
    path.set(xlabel="size of the start", ylabel="least distance", title=r"to $X_1$ (full) and $X_2$ (hollow)")
    for ax in (times, angles, path):
        ax.invert_xaxis()
        ax.set_xticks([1e-2, 1e-10, 1e-20, 1e-30], ["$10^{-2}$", "$10^{-10}$", "$10^{-20}$", "$10^{-30}$"])
        ax.minorticks_off()
    times.legend(loc="upper left")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows = []
    for depth in DEPTHS:
        exact = np.array([aligned_time(size, depth) for size in data["size"].values])
        off = float(np.abs(data["time"].sel(depth=depth).isel(start=-1) / exact - 1).max())
        quantity = f"largest relative error of the escape time of an aligned start, N = {depth:g}"
        rows.append(vanishing(quantity, off, 1e-3))
    smallest = scaled(data).isel(size=-1, start=slice(None, -1))
    for depth in DEPTHS:
        values = smallest.sel(depth=depth).values
        rows.append(measured(f"ratio of the escape time to that of one mode of this size, N = {depth:g}", mean(values)))
    for depth in DEPTHS:
        found, expected = slopes(data, depth)
        off = float(np.abs(found - expected).max())
        of_what = "log(sigma_1/sigma_2)" if np.isinf(depth) else "the size"
        quantity = f"power of {of_what} with which the angle falls at 1e-30, median, N = {depth:g}"
        rows.append(
            Number(quantity, "-", float(np.median(found)), 0.0, verdict(off < 0.01), float(np.median(expected)))
        )
        quantity = f"largest error of that power, N = {depth:g}"
        rows.append(vanishing(quantity, off, 0.01))
        last = np.arctan(abs(data["left"].sel(depth=depth).isel(size=-1, start=slice(None, -1)).values))
        rows.append(measured(f"median angle of u_1 from the target, size 1e-30, N = {depth:g}", median(last)))
    for n, depth in enumerate(DEPTHS):
        last = int(np.isfinite(data["path_size"].values[n]).sum()) - 1
        size = data["path_size"].values[n, last]
        for stop in (0, 1):
            value = median(data["nearest"].isel(depth=n, stop=stop, k=last).values)
            quantity = f"median least distance to X_{stop + 1} of the greedy path, N = {depth:g}, size {size:.0e}"
            rows.append(measured(quantity, value))
    return rows


FIGURE = Figure(
    "6.7",
    "From saddle to saddle: escape times, alignment and the greedy path (beyond the thesis)",
    16,
    compute,
    draw,
    numbers,
    text="(a) The time until sigma_1 comes to 1/2 under |X - diag(1, 0.6)|^2/2, from Gaussian starts of each size "
    "(marks), and for a start along the target (lines, exact): log(1/size) at N = 2, size^-(1-2/N) beyond. (b) The "
    "angle of u_1 from the target where sigma_1 comes to 0.05 (medians): a power of the size at finite depth, and of "
    "its logarithm at infinite depth (lines: the laws on the page of this question). (c) A completion of 3 x 3: the "
    "least distance of the flow from the first saddle X_1 of the greedy path (full marks) and its end X_2 (hollow).",
    parameters="target diag(1, 0.6), starts of sizes 1e-2 to 1e-30; completion of 7 of 9 entries of a matrix of rank "
    "two; N = 2, 3, infinity, 16 Gaussian starts of each size",
    counted="random starts of each size",
    look=4,
    source="an exact integral, or the exponent derived on the page",
)
