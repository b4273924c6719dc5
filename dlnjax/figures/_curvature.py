"""Figure 3.3: the sign of the sectional curvature, against depth and condition number, and over random planes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import metric_eigenvalues, scalar_curvature, sectional_curvature
from dlnjax._compile import compiled
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, mean, measured, Number, share, shown_depth, vanishing, verdict
from dlnjax.plot import new_figure

DEPTHS = (2.0, 3.0, 5.0, np.inf)
# log(sigma_1/sigma_2) of the curves.
LOGS = np.linspace(0.0, 9.3, 94)
# The inverse depths of the sign change. It moves to infinite condition numbers as N comes down to 2.
INVERSE = np.linspace(0.0, 0.48, 49)
# The least and the largest log(sigma_1/sigma_2) between which the sign change is searched for, and the halvings.
BRACKET, HALVINGS = (0.5, 30.0), 50
# The depths at which the sign change of the closed form is marked.
MARKED = (3.0, 5.0, 10.0, np.inf)
SIZES, CONDITIONS, PLANE_DEPTHS = (3, 5), (1.0, 10.0, 100.0), (2.0, np.inf)
UNITS = np.array([[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]])
TOGETHER, AGAINST = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])
VALUES = ("larger", "smaller")


def _of_a_pair(log, depth):
    """K of the planes of each singular value and the relative turn of its frames, at determinant 1."""
    x = jnp.diag(jnp.exp(jnp.stack([log, -log]) / 2))
    return jax.vmap(lambda unit: sectional_curvature(x, unit, jnp.asarray(AGAINST), depth))(jnp.asarray(UNITS))


# A program around `sectional_curvature` would have its checks inside. They call Python, and JAX does not keep a program
# that does.
_of_batch = jax.vmap(_of_a_pair)


def _of_pairs(log: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
    """`_of_a_pair` of each, `n value`."""
    return np.asarray(_of_batch(*_filled(log, np.broadcast_to(depth, len(log)))))[: len(log)]


def _filled(*arrays: np.ndarray) -> list[jax.Array]:
    """The arrays with their last row repeated, so that all have as many rows as the curves, and share a program."""
    rows = np.minimum(np.arange(len(LOGS)), len(arrays[0]) - 1)
    return [jax.device_put(a[rows]) for a in arrays]


@compiled
def _closed_form(y, depth, deep: bool):
    """-f''/f in each coordinate of y, with f the length of the relative turn."""

    def f(y):
        s, square = (jnp.exp(y), y[0] - y[1]) if deep else ((y / depth) ** depth, (y[0] ** 2 - y[1] ** 2) / (2 * depth))
        return jnp.sqrt(square * (s[0] + s[1]) / (s[0] - s[1]))

    return jax.vmap(lambda y: -jnp.diagonal(jax.hessian(f)(y)) / f(y))(y)


def closed_form(log: np.ndarray, depth: float) -> np.ndarray:
    """The curvature of `_of_a_pair` in closed form, `n value`, from the length of a turn as a function of y."""
    half = np.stack([log, -log], 1) / 2
    y = half if np.isinf(depth) else depth * np.exp(half / depth)
    return np.asarray(_closed_form(*_filled(y), jnp.asarray(depth), bool(np.isinf(depth))))[: len(log)]


def _sign_changes() -> np.ndarray:
    """The log(sigma_1/sigma_2) from which K is positive, by bisection, or NaN if it is not found. It is the same for
    both values, since f is homogeneous in y: y_1^2 K_1 = y_2^2 K_2.
    """
    depth = np.divide(1.0, INVERSE, out=np.full(len(INVERSE), np.inf), where=INVERSE > 0)
    low, high = (np.full(len(INVERSE), end) for end in BRACKET)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        positive = _of_pairs(middle, depth)[:, 1] > 0
        low, high = np.where(positive, low, middle), np.where(positive, middle, high)
    return np.where(high < BRACKET[1], high, np.nan)


def _of_planes(sigma, depth, first, second):
    """K of the planes of two matrices, whose entries are those in an orthonormal frame at diag(sigma)."""
    root = jnp.sqrt(metric_eigenvalues(sigma, depth))
    plane = lambda a, b: sectional_curvature(jnp.diag(sigma), root * a, root * b, depth)
    return jax.vmap(plane)(first, second)


def _spectrum(d: int, condition: float) -> np.ndarray:
    """Singular values in geometric progression, with the determinant 1."""
    return condition ** np.linspace(0.5, -0.5, d)


def _random_planes(key, planes: int) -> tuple[np.ndarray, np.ndarray]:
    """(K of random planes, and its mean over all planes, by the scalar curvature), `size depth condition [plane]`."""
    shape = (len(SIZES), len(PLANE_DEPTHS), len(CONDITIONS))
    found, means = np.empty((*shape, planes)), np.empty(shape)
    for i, (d, one) in enumerate(zip(SIZES, split(key, len(SIZES)), strict=True)):
        entries = normal(one, (2, planes, d, d))
        pairs = d * d * (d * d - 1)
        for j, depth in enumerate(PLANE_DEPTHS):
            for k, condition in enumerate(CONDITIONS):
                sigma = jnp.asarray(_spectrum(d, condition))
                found[i, j, k] = _of_planes(sigma, jnp.asarray(depth), *entries)
                means[i, j, k] = float(scalar_curvature(jnp.diag(sigma), jnp.asarray(depth))) / pairs
    return found, means


def compute(key, seeds: int) -> xarray.Dataset:
    pairs = [_of_pairs(LOGS, depth) for depth in DEPTHS]
    exact = [closed_form(LOGS[1:], depth) for depth in DEPTHS]
    planes, means = _random_planes(key, seeds)
    cells = ("size", "plane_depth", "condition")
    return xarray.Dataset(
        {
            "pair": (("depth", "log", "value"), np.stack(pairs), {"long_name": "K of a value and the relative turn"}),
            "pair_exact": (("depth", "later_log", "value"), np.array(exact), {"long_name": "the same in closed form"}),
            "change": ("inverse_depth", _sign_changes(), {"long_name": "log condition of the sign change"}),
            "plane": ((*cells, "seed"), planes, {"long_name": "K of random planes"}),
            "plane_mean": (cells, means, {"long_name": "mean K of all planes, from the scalar curvature"}),
        },
        coords={
            "depth": list(DEPTHS),
            "log": LOGS,
            "later_log": LOGS[1:],
            "value": list(VALUES),
            "inverse_depth": INVERSE,
            "size": list(SIZES),
            "plane_depth": list(PLANE_DEPTHS),
            "condition": list(CONDITIONS),
        },
        attrs={"scale": "determinant 1, metric with 1/N", "pair": "d = 2, the frames turned against each other"},
    )


def exact_change(depth: float) -> float:
    """The log(sigma_1/sigma_2) at which the closed form changes its sign."""
    from scipy.optimize import brentq

    change: Any = brentq(lambda log: closed_form(np.array([log]), depth)[0, 1], *BRACKET, xtol=1e-13)
    return float(change)


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 3.9)
    axes = figure.subplots(2, 2)
    _draw_curves(axes[0, 0], data)
    _draw_changes(axes[0, 1], data)
    for ax, d in zip(axes[1], SIZES, strict=True):
        _draw_planes(ax, data.sel(size=d))
    axes[1, 0].set_ylabel("curvature $K$ of random planes")
    return figure


def _draw_curves(ax, data: xarray.Dataset) -> None:
    condition = np.exp(data["log"].values)
    ax.axhline(0.0, color="0.6", lw=0.6)
    styles = zip(DEPTHS, ("-", "--", "-.", "-"), ("C0", "C1", "C2", "black"), strict=True)
    for depth, line, color in styles:
        values = data["pair"].sel(depth=depth, value="smaller")
        ax.plot(condition, values, line, color=color, lw=1.1, label=f"${shown_depth(depth)}$")
    ax.set_xticks([1, 1e2, 1e4])
    ax.set(xscale="log", xlim=(1, condition[-1]), ylabel="curvature $K$", xlabel=r"$\sigma_1 / \sigma_2$")
    ax.set_title("$\\sigma_2$ and a relative turn")
    ax.legend(title="$N$", loc="lower right", ncols=2, handlelength=1.8, columnspacing=0.8, title_fontsize=7)


def _draw_changes(ax, data: xarray.Dataset) -> None:
    inverse, top = data["inverse_depth"].values, 6.0
    log = data["change"].values / np.log(10)
    edge = np.append(np.fmin(log, top), top)
    inverse = np.append(inverse, 0.5)
    ax.fill_between(inverse, 0, edge, color="C1", alpha=0.2, lw=0)
    ax.fill_between(inverse, edge, top, color="C0", alpha=0.2, lw=0)
    ax.plot(inverse[:-1], log, color="black", lw=1.1)
    exact = np.array([exact_change(depth) for depth in MARKED]) / np.log(10)
    ax.plot([1 / depth for depth in MARKED], exact, "o", color="black", mfc="white", markersize=3.5, clip_on=False)
    ax.text(0.25, 0.7, "$K < 0$", ha="center")
    ax.text(0.12, 4.4, "$K > 0$", ha="center")
    places = (0.0, 1 / 10, 1 / 5, 1 / 3, 1 / 2)
    ax.set_xticks(places, [f"${shown_depth(1 / p if p else np.inf)}$" for p in places])
    ax.set_yticks(range(0, 7, 2), ["1", *(f"$10^{k}$" for k in range(2, 7, 2))])
    ax.set(xlim=(0, 0.5), ylim=(0, top), xlabel="depth $N$", ylabel=r"$\sigma_1 / \sigma_2$")
    ax.set_title("sign of $K$")


def _draw_planes(ax, data: xarray.Dataset) -> None:
    places = np.arange(len(CONDITIONS))
    ax.axhline(0.0, color="0.6", lw=0.6)
    sides = zip(PLANE_DEPTHS, ("low", "high"), ("C0", "black"), (-0.15, 0.15), (0.93, 0.85), strict=True)
    for depth, side, color, shift, row in sides:
        planes = data["plane"].sel(plane_depth=depth)
        parts = ax.violinplot(list(planes.values), places, widths=0.85, showextrema=False, side=side, points=200)
        for body in parts["bodies"]:
            body.set(facecolor=color, alpha=0.4, edgecolor=color, linewidth=0.5)
        ax.plot(places + shift / 4, data["plane_mean"].sel(plane_depth=depth), "D", color=color, markersize=2.5)
        for place, negative in zip(places, (planes < 0).mean("seed").values, strict=True):
            where = {"transform": ax.get_xaxis_transform(), "ha": "center", "fontsize": 6}
            ax.text(place, row, rf"{100 * negative:.0f} %", color=color, **where)
        where = {"transform": ax.get_xaxis_transform(), "ha": "right" if shift < 0 else "left", "fontsize": 7}
        ax.text(shift / 2, 0.68, f"${'N = ' * (shift < 0)}{shown_depth(depth)}$", color=color, **where)
    ax.set_xticks(places, [f"{c:g}" for c in CONDITIONS])
    ax.set(xlabel=r"$\sigma_1 / \sigma_d$", xlim=(-0.95, 2.6))
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.25 * (high - low))
    ax.set_title(f"$d = {int(data['size'])}$; in %: the share of $K < 0$")


def numbers(data: xarray.Dataset) -> list[Number]:
    off = float(np.abs(data["pair"].isel(log=slice(1, None)).values - data["pair_exact"].values).max())
    rows = [vanishing("largest error of K of a value and a turn", off, 1e-10)]
    for depth in DEPTHS:
        here = float(data["pair"].sel(depth=depth, log=0.0, value="larger"))
        exact = -(1 - depth**-2) / 12
        rows.append(
            Number(
                f"K at the isotropic matrix, N = {depth:g}", "-", here, 0.0, verdict(abs(here - exact) < 1e-12), exact
            )
        )
    most = float(data["pair"].sel(depth=2.0).max())
    rows.append(Number("largest K of a value and a turn, N = 2", "-", most, 0.0, verdict(most < 0)))
    for depth in (5.0, np.inf):
        log = float(data["change"].sel(inverse_depth=1 / depth, method="nearest"))
        exact = exact_change(depth)
        quantity = f"log of the condition number where the sign changes, N = {depth:g}"
        rows.append(Number(quantity, "-", log, 0.0, verdict(abs(log - exact) < 1e-8), exact))
    for d in SIZES:
        for depth in PLANE_DEPTHS:
            for condition in CONDITIONS:
                at = dict(size=d, plane_depth=depth, condition=condition)
                planes, name = data["plane"].sel(at).values, f"d = {d}, N = {depth:g}, condition {condition:g}"
                exact = float(data["plane_mean"].sel(at))
                rows.append(measured(f"mean K of random planes, {name}", mean(planes), exact, expected_error=0.0))
                rows.append(measured(f"share of planes with K < 0, {name}", share(planes < 0)))
    return rows


FIGURE = Figure(
    "3.3",
    "The curvature has both signs, and depth decides where (beyond the thesis)",
    2000,
    compute,
    draw,
    numbers,
    text="The sectional curvature K in the 1/N-normalised metric, at determinant 1. Above, at d = 2: the plane of a "
    "singular value and a turn of the two frames against each other. At depth 2 its curvature is negative everywhere. "
    "Deeper, it is positive from a condition number on, in the right panel, with circles for the closed form: at "
    "infinite depth from 43 on. Below: K of random planes, at singular values in geometric progression, on the left "
    "halves N = 2 and on the right halves infinite depth, with the share of negative planes. Diamonds: the mean over "
    "all planes, from the scalar curvature.",
    parameters="d = 2, 3, 5, N = 2, 3, 5, infinity, determinant 1, condition numbers 1 to 1e4 and 1, 10, 100, "
    "2000 random planes at each",
    counted="random planes at each matrix",
)
