"""Figure 3.2: balls of the distance in a slice of two parameters, at several depths."""

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing
from scipy.interpolate import RectBivariateSpline

from dlnjax import distances
from dlnjax.figures._figure import Figure, Number, shown_depth, verdict
from dlnjax.plot import new_figure

CENTRE, REACH = 1.0, 2.5
DEPTHS = (1.0, 2.0, np.inf)
# All panels show the same distances.
LEVELS = np.arange(1.0, 11.0)
# The points a side between which lines are drawn.
FINE = 181


def _points(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp([[x, y], [y, -x]]). All symmetric positive definite matrices of determinant 1 have this form."""
    r = np.hypot(x, y)[:, None, None]
    # The quotient of sinh(r) and r, which is 1 at r = 0.
    quotient = np.divide(np.sinh(r), r, out=np.ones_like(r), where=r > 0)
    return np.cosh(r) * np.eye(2) + quotient * np.stack([x, y, y, -x], axis=1).reshape(-1, 2, 2)


def compute(key, seeds: int) -> xarray.Dataset:
    seeds |= 1  # an odd number of points has the diagonal matrices, y = 0, among them
    side = np.linspace(-REACH, REACH, seeds)
    # X -> D X D with D = diag(1, -1) is an isometry that fixes the centre and turns y into -y. Half of the points is
    # therefore enough.
    half = side[: (seeds + 1) // 2]
    x, y = (a.ravel() for a in np.meshgrid(side, half, indexing="ij"))
    centre, points = map(jax.device_put, (_points(np.array([CENTRE]), np.array([0.0])), _points(x, y)))
    # One process computes them all. The programs are those of figure 3.1, and other processes would compile them again.
    how = {"executor": 1, "progress": False}
    found = [distances(centre, points, depth, **how).reshape(seeds, -1) for depth in DEPTHS]
    found = [np.concatenate([a, a[:, : seeds // 2][:, ::-1]], axis=1) for a in found]
    return xarray.Dataset(
        {"distance": (("depth", "x", "y"), np.asarray(found), {"long_name": "distance, 1/N-normalised"})},
        coords={"depth": list(DEPTHS), "x": side, "y": side},
        attrs={"slice": "exp([[x, y], [y, -x]])", "centre": f"x = {CENTRE}, y = 0"},
    )


def _finer(data: xarray.Dataset) -> tuple[np.ndarray, list[np.ndarray]]:
    """(a finer grid, the distances on it at each depth, `y x`).

    The square of a distance is smooth at the centre, where the distance itself has a cone. The grid stays as it is if
    a distance is not known.
    """
    side = data["x"].values
    if not np.isfinite(data["distance"]).all():
        return side, [one.T for one in data["distance"].values]
    fine = np.linspace(side[0], side[-1], FINE)
    order = min(3, len(side) - 1)
    squares = [RectBivariateSpline(side, side, one.T**2, kx=order, ky=order) for one in data["distance"].values]
    return fine, [np.sqrt(np.maximum(square(fine, fine), 0.0)) for square in squares]


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 2.6)
    panels = figure.subplots(1, len(DEPTHS), sharey=True)
    fine, distances = _finer(data)
    for ax, depth, values in zip(panels, data["depth"].values, distances, strict=True):
        contours = ax.contour(fine, fine, values, levels=LEVELS, cmap="viridis", vmax=1.2 * LEVELS[-1])
        contours.set_linewidth(0.9)
        ax.clabel(contours, LEVELS[:4], fontsize=6, fmt="%g", inline_spacing=2)
        ax.plot(CENTRE, 0, "k+", markersize=4)
        name = shown_depth(depth)
        ax.set(title=f"$N = {name}$", xlabel="$x$", aspect="equal")
    panels[0].set_ylabel("$y$")
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    far = float(data["x"][-1])
    end = data["distance"].sel(x=far, y=0.0)
    deep = np.sqrt(2) * (far - CENTRE)
    flat = np.hypot(np.exp(far) - np.exp(CENTRE), np.exp(-far) - np.exp(-CENTRE))
    ratio = lambda depth, expected: float(end.sel(depth=depth)) / expected
    agrees = lambda value: verdict(abs(value - 1) < 1e-6)
    exact = lambda quantity, value, source: Number(quantity, "-", float(value), 0.0, agrees(value), 1.0, source=source)
    return [
        exact("share of points that the search reached", np.isfinite(data["distance"]).mean(), "all points"),
        exact("distance along the diagonal, N = inf, over sqrt(2) (x - 1)", ratio(np.inf, deep), "(3.86)"),
        exact("distance along the diagonal, N = 1, over the Euclidean", ratio(1.0, flat), "the Euclidean norm"),
    ]


FIGURE = Figure(
    "3.2",
    "Balls of the geodesic distance, from flat to infinitely deep (beyond the thesis)",
    31,
    compute,
    draw,
    numbers,
    text="Lines of equal 1/N-normalised distance, 1 to 10 at each depth, from one matrix, a cross, among the symmetric "
    "positive definite ones of determinant 1. At depth 1 the distance is Euclidean, seen here through the exponential. "
    "At infinite depth it grows as the logarithms of the singular values do, and the balls reach around the isotropic "
    "matrix at the origin.",
    parameters="exp([[x, y], [y, -x]]), centre at x = 1, y = 0, N = 1, 2, infinity, 31 points a side",
    counted="points a side (one more if even)",
)
