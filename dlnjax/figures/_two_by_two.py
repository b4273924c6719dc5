"""Figure 6.1, beyond the thesis: which completion of a 2 x 2 matrix depth selects when its diagonal is seen."""

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing
from scipy.stats import kstest

from dlnjax import MatrixCompletion, RESULTS
from dlnjax.figures._draws import normal
from dlnjax.figures._figure import Figure, lettered, measured, median, Number, share, shown_depth, vanishing, verdict
from dlnjax.figures._shapes import small_flows, times
from dlnjax.plot import new_figure

DEPTHS = (1.0, 2.0, 3.0, 5.0, np.inf)
SIZES = (1e-2, 1e-3, 1e-4)
# Where the share of each kind is drawn against the depth. Below N = 2 a negative determinant can end in time.
BETWEEN = (2.0, 2.2, 2.5, 3.0, 4.0, 6.0, 10.0, 20.0, 50.0, np.inf)
HORIZON = 1e8
# So many limits are compared with their law, by the closed form, from starts of size TINY.
MANY, TINY = 4000, 1e-8


def limit_at_depth_two(x0: np.ndarray) -> np.ndarray:
    """The limit of the flow of depth 2 under any energy of the diagonal with its minimum at X_ii = 1, exactly.

    With P = W_2 + W_1^T and Q = W_2 - W_1^T the flow is P' = D P, Q' = -D Q, where D = -dE is diagonal. So P = H P_0
    and Q = H^-1 Q_0 for a diagonal H, and 4 X = (P + Q)(P - Q)^T has h_i^2 A_ii - B_ii/h_i^2 = 1 on its diagonal, for
    A = P_0 P_0^T/4 and B = Q_0 Q_0^T/4.

    **Arguments:** `x0`, `... d d`, of which the balanced factors are taken.
    """
    u, sigma, vt = np.linalg.svd(x0)
    root = np.sqrt(sigma)[..., None, :] / 2
    p, q = (u + vt.mT) * root, (u - vt.mT) * root
    a, b = (p**2).sum(-1), (q**2).sum(-1)
    h = np.sqrt((1 + np.sqrt(1 + 4 * a * b)) / (2 * a))[..., None]
    return (h * p + q / h) @ (h * p - q / h).mT


def cosine_law(rho):
    """P(X_12 <= rho) in the limit of small Gaussian starts of positive determinant at depth 2.

    The limit is the correlation matrix of R diag(sigma_1, sigma_2) R^T with a uniform rotation R, of
    rho = r sin(t)/sqrt(1 - r^2 cos(t)^2). The ratio r = (sigma_1 - sigma_2)/(sigma_1 + sigma_2) has the distribution
    2 r^2/(1 + r^2), t is uniform, and the integral over t is done by its mean over equal steps.
    """
    rho = np.asarray(rho)[..., None]
    t = (np.arange(2000) + 0.5) * np.pi / 2000
    # |rho_limit| <= |rho| if r <= r_0 with r_0^2 = rho^2/(sin^2 t + rho^2 cos^2 t).
    square = rho**2 / (np.sin(t) ** 2 + rho**2 * np.cos(t) ** 2)
    inside = (2 * square / (1 + square)).mean(-1)
    return 0.5 + 0.5 * np.sign(rho[..., 0]) * inside


def limits(starts, depth):
    """(the limits of the flows, whether they are at rest)."""
    sol = small_flows(MatrixCompletion.diagonal(2), starts, times(1.0, HORIZON), depth=depth, gradient=1e-8, rtol=1e-8)
    return np.asarray(sol.final.matrix), np.asarray(sol.result == RESULTS.steady)


def compute(key, seeds: int) -> xarray.Dataset:
    draws = normal(key, (seeds, 2, 2))
    many = normal(jax.random.fold_in(key, 1), (MANY, 2, 2))
    shallow = limit_at_depth_two(TINY * many[np.linalg.det(many) > 0])
    depth, size, seed = (a.ravel() for a in np.meshgrid(DEPTHS, SIZES, np.arange(seeds), indexing="ij"))
    few = min(seeds, 50)
    between, scale, which = (a.ravel() for a in np.meshgrid(BETWEEN, SIZES, np.arange(few), indexing="ij"))
    starts = np.concatenate([size, scale])[:, None, None] * draws[np.concatenate([seed, which])]
    x, rest = limits(starts, np.concatenate([depth, between]))
    cells, shape = ("depth", "size", "seed", "row", "column"), (len(DEPTHS), len(SIZES), seeds)
    return xarray.Dataset(
        {
            "draw": (("seed", "row", "column"), draws, {"long_name": "start over its size"}),
            "x": (cells, x[: depth.size].reshape(*shape, 2, 2), {"long_name": "limit"}),
            "at_rest": (cells[:3], rest[: depth.size].reshape(shape), {"long_name": "|dE| <= 1e-8"}),
            "between": (("n", "size", "few", "row", "column"), x[depth.size :].reshape(-1, len(SIZES), few, 2, 2)),
            "correlation": ("draw_of_law", shallow[:, 0, 1], {"long_name": "X_12 by the closed form, det > 0"}),
            "n": ("n", list(BETWEEN), {"long_name": "depth"}),
        },
        coords={"depth": list(DEPTHS), "size": list(SIZES)},
        attrs={"energy": "(4.21), d = 2", "start": "size times N(0, 1)"},
    )


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 4.0)
    axes = figure.subplots(2, 3).ravel()
    positive = np.linalg.det(data["draw"].values) > 0
    curve = np.geomspace(1 / 3, 3, 50)
    for ax, depth in zip(axes, DEPTHS, strict=False):
        x = data["x"].sel(depth=depth, size=SIZES[-1]).values
        for sign in (1, -1):
            ax.plot(sign * curve, sign / curve, color="0.75", lw=0.6)
        for which, marker, color in ((positive, "o", "C0"), (~positive, "x", "C1")):
            ax.plot(x[which, 0, 1], x[which, 1, 0], marker, color=color, ms=2.5, mew=0.6, alpha=0.7)
        ax.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", title=f"$N = {shown_depth(depth)}$")
        ax.set(xlabel="$X_{12}$", ylabel="$X_{21}$")
    axes[0].plot([], [], "o", color="C0", ms=2.5, label=r"$\det X_0 > 0$")
    axes[0].plot([], [], "x", color="C1", ms=2.5, mew=0.6, label=r"$\det X_0 < 0$")
    axes[0].legend(loc="upper left", handletextpad=0.2)
    last = axes[-1]
    x, few = data["between"].values, positive[: data.sizes["few"]]
    place = 1 - 2 / np.array(BETWEEN)
    product = x[..., 0, 1] * x[..., 1, 0]
    for size, line, fill in zip(SIZES, (":", "--", "-"), ("white", "white", "C0"), strict=True):
        middle = np.median(product[:, SIZES.index(size)][:, few], axis=1)
        last.plot(place, middle, f"o{line}", color="C0", ms=3, lw=0.9, mfc=fill, label=f"size {size:g}")
    last.plot(place, np.median(product[:, -1][:, ~few], axis=1), "x-", color="C1", ms=3, lw=0.9)
    last.legend(loc="lower right")
    last.set_xticks(1 - 2 / np.array([2.0, 2.5, 3.0, 5.0, np.inf]), ["2", "2.5", "3", "5", r"$\infty$"])
    last.set(xlabel="depth $N$", ylabel="median of $X_{12} X_{21}$", ylim=(0, 1.1), title="between the depths")
    return lettered(figure)


def numbers(data: xarray.Dataset) -> list[Number]:
    rows, x = [], data["x"]
    positive = np.linalg.det(data["draw"].values) > 0
    starts = data["size"].values[:, None, None, None] * data["draw"].values
    off = float(np.abs(x.sel(depth=2.0).values - limit_at_depth_two(starts)).max())
    rows.append(vanishing("largest error of the limit at N = 2 against its closed form", off, 1e-5))
    smallest = x.sel(size=SIZES[-1])
    one = np.abs(smallest.sel(depth=1.0).values[:, [0, 1], [1, 0]] - SIZES[-1] * data["draw"].values[:, [0, 1], [1, 0]])
    rows.append(vanishing("largest change of X_12 and X_21 at N = 1", float(one.max()), 1e-8))
    p = float(kstest(data["correlation"].values, cosine_law).pvalue)
    quantity = "N = 2, det > 0: Kolmogorov-Smirnov p-value of X_12 against its law"
    rows.append(Number(quantity, "-", p, 0.0, verdict(p > 0.01)))
    for depth in DEPTHS[1:]:
        at = smallest.sel(depth=depth).values
        product = at[:, 0, 1] * at[:, 1, 0]
        for which, name in ((positive, "det > 0"), (~positive, "det < 0")):
            quantity = f"median of X_12 X_21, size {SIZES[-1]:g}, {name}, N = {depth:g}"
            rows.append(measured(quantity, median(product[which])))
        spread = np.abs(np.log(np.abs(at[:, 0, 1] / at[:, 1, 0])))
        rows.append(measured(f"median of abs(log X_12/X_21), size {SIZES[-1]:g}, N = {depth:g}", median(spread)))
    for depth in DEPTHS[1:]:
        at = x.sel(depth=depth).values
        spread = np.median(np.abs(np.log(np.abs(at[..., 0, 1] / at[..., 1, 0]))), axis=1)
        if np.isinf(depth):
            power = float((1 / spread[-1] - 1 / spread[-2]) / np.log(SIZES[-2] / SIZES[-1]))
            rows.append(measured("growth of 1/abs(log X_12/X_21) for each log of 1/size, N = inf", (power, np.nan)))
            continue
        power = float(np.log(spread[-2] / spread[-1]) / np.log(SIZES[-2] / SIZES[-1]))
        quantity = f"power of the size with which abs(log X_12/X_21) falls, N = {depth:g}"
        rows.append(Number(quantity, "-", power, 0.0, verdict(abs(power - 2 / depth) < 0.05), 2 / depth))
    rows.append(measured("share of flows at rest", share(data["at_rest"].values.ravel())))
    return rows


FIGURE = Figure(
    "6.1",
    "Which completion of a diagonal depth selects (beyond the thesis)",
    200,
    compute,
    draw,
    numbers,
    text="The limits of the flow of (4.21), d = 2, from Gaussian starts of size 0.0001, by the sign of the "
    "determinant of the start; grey: the hyperbolas of rank one. At N = 1 the other two entries stay where they were. "
    "At N = 2 a positive determinant ends at a symmetric matrix of any correlation, in closed form. "
    "Deeper, both signs end at rank one, and the deeper, the slower they become symmetric. (f) The median of "
    "X_12 X_21 between the depths.",
    parameters="E of (4.21), d = 2, N = 1, 2, 3, 5, infinity, X_ij ~ N(0, size^2), to |dE| <= 1e-8, 200 starts of "
    "sizes 0.01, 0.001 and 0.0001",
    source="a closed form, or the exponent derived on the page",
)
