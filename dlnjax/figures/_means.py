"""Figure 3.4: the Frechet mean of ten networks, against averages of their entries and of their factors."""

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import balanced_factors, frechet_mean, RESULTS
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, mean, measured, Number, share, shown_depth, vanishing, verdict
from dlnjax.plot import new_figure

COUNT, D = 10, 3
DEPTHS = (1.0, 2.0, 3.0, np.inf)
FACTORS, ALIGNED = "factors", "aligned factors"
COLORS = ("C0", "C0", "C0", "C0", "C1", "C1")
METHODS = (*(f"N = {depth:g}" for depth in DEPTHS), ALIGNED, FACTORS)
# The singular values of the ten matrices, up to factors exp(0.2 n) with n normal, and the angles of their frames.
SIGMA, SPREAD, ANGLE = np.array([4.0, 1.0, 0.25]), 0.2, 0.35
# The ellipses have half axes in this ratio, and lie at all angles up to this one.
FLAT, FAN = 8.0, 0.6 * np.pi
# To this accuracy a mean is one that is known in closed form.
NEAR = 1e-8


def _rotations(key, n: int, d: int) -> np.ndarray:
    """exp(A) of random antisymmetric matrices A with entries of size ANGLE."""
    a = np.tril(normal(key, (n, d, d)), -1)
    return np.asarray(jax.vmap(jax.scipy.linalg.expm)(jnp.asarray(ANGLE * (a - a.mT))))


def networks(key) -> np.ndarray:
    """Ten matrices of 3 x 3, as networks that have learnt one teacher, each with errors of its own."""
    left, right, size = split(key, 3)
    sigma = SIGMA * np.exp(SPREAD * normal(size, (COUNT, D)))
    return (_rotations(left, COUNT, D) * sigma[:, None, :]) @ _rotations(right, COUNT, D).mT


def ellipses(key) -> np.ndarray:
    """Ten positive definite matrices of 2 x 2 and determinant 1, which are drawn as ellipses."""
    angles = FAN * (np.linspace(-0.5, 0.5, COUNT) + 0.02 * normal(key, (COUNT,)))
    turn = np.array([[np.cos(angles), -np.sin(angles)], [np.sin(angles), np.cos(angles)]]).transpose(2, 0, 1)
    return (turn * np.array([FLAT**0.5, FLAT**-0.5])) @ turn.mT


def _factors(key, points: np.ndarray) -> np.ndarray:
    """Balanced factors of two layers, `2 count d d`, each pair turned by a random rotation of its hidden layer."""
    first, second = (
        jnp.stack(each) for each in zip(*(balanced_factors(jnp.asarray(x), 2) for x in points), strict=True)
    )
    turns = np.linalg.qr(normal(key, points.shape))[0]
    return np.stack([turns @ np.asarray(first), np.asarray(second) @ turns.mT])


def _aligned(factors: np.ndarray) -> np.ndarray:
    """The factors with each hidden layer turned to that of the first network as well as it can be (Procrustes)."""
    first, second = factors
    u, _, vt = np.linalg.svd(first[0] @ first.mT + second[0].T @ second)
    turns = u @ vt
    return np.stack([turns @ first, second @ turns.mT])


def averages(key, points: np.ndarray) -> tuple[np.ndarray, list]:
    """(the averages of METHODS, `method d d`, the solutions of the Frechet means)."""
    means = [frechet_mean(points, depth, throw=False) for depth in DEPTHS]
    factors = _factors(key, points)
    products = [second @ first for first, second in (_aligned(factors).mean(1), factors.mean(1))]
    return np.stack([*(np.asarray(found.x) for found in means), *products]), means


def barycenter(points: np.ndarray) -> np.ndarray:
    """The barycenter of optimal transport between Gaussians with these covariances, by its fixed point iteration."""

    def root(x: np.ndarray) -> np.ndarray:
        values, vectors = np.linalg.eigh(x)
        return (vectors * np.sqrt(values)[..., None, :]) @ vectors.mT

    x = points.mean(0)
    for _ in range(200):
        half = root(x)
        inverse = np.linalg.inv(half)
        mixed = root(half @ points @ half).mean(0)
        x = inverse @ mixed @ mixed @ inverse
    return x


def compute(key, seeds: int) -> xarray.Dataset:
    drawn, turned, *keys = split(key, 2 + 2 * seeds)
    ovals = ellipses(drawn)
    oval_means, found = averages(turned, ovals)
    points = np.stack([networks(one) for one in keys[:seeds]])
    every = [averages(one, ten) for one, ten in zip(keys[seeds:], points, strict=True)]
    solutions = [found, *(one for _, one in every)]
    of_depth = lambda f: np.array([[f(one) for one in each] for each in solutions])
    return xarray.Dataset(
        {
            "oval": (("network", "row2", "column2"), ovals, {"long_name": "positive definite matrices of 2 x 2"}),
            "oval_mean": (("average", "row2", "column2"), oval_means),
            "barycenter": (("row2", "column2"), barycenter(ovals), {"long_name": "that of optimal transport"}),
            "x": (("seed", "network", "row", "column"), points, {"long_name": "ten networks of 3 x 3"}),
            "mean": (("seed", "average", "row", "column"), np.stack([means for means, _ in every])),
            "converged": (("set", "depth"), of_depth(lambda one: bool(one.result == RESULTS.successful))),
            "minimum": (("set", "depth"), of_depth(lambda one: one.index == 0)),
        },
        coords={"average": list(METHODS), "depth": list(DEPTHS)},
        attrs={"networks": f"sigma = 4, 1, 1/4 times exp({SPREAD} n), frames turned by angles of {ANGLE} n"},
    )


def kept(data: xarray.Dataset) -> xarray.DataArray:
    """Each singular value of an average, over the geometric mean of this value of the ten networks."""
    values = lambda x: np.linalg.svd(x, compute_uv=False)
    typical = np.exp(np.log(values(data["x"].values)).mean(1))
    ratios = values(data["mean"].values) / typical[:, None]
    return xarray.DataArray(ratios, {"average": data["average"].values}, ("seed", "average", "mode"))


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(3.4, 2.9)
    above, below = figure.subplots(2, 1, height_ratios=(1, 3))
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    ovals = data["oval"].values
    size = 0.46 / np.linalg.norm(ovals, 2, axis=(1, 2)).max()
    names = [*(f"$N = {shown_depth(depth)}$" for depth in DEPTHS), "aligned\nfactors", "factors"]
    for place, (x, color) in enumerate(zip(data["oval_mean"].values, COLORS, strict=True)):
        for oval in ovals:
            above.plot(*(size * oval @ circle + [[place], [0]]), color="0.75", lw=0.4)
        above.fill(*(size * x @ circle + [[place], [0]]), facecolor=color, alpha=0.35, lw=0)
        above.plot(*(size * x @ circle + [[place], [0]]), color=color, lw=1.3)
    above.set(
        aspect="equal", xticks=[], yticks=[], xlim=(-0.5, len(names) - 0.5), title="ten ellipses and their average"
    )
    above.spines[:].set_visible(False)
    ratios, places = kept(data), np.arange(len(names))
    below.axhline(1.0, color="0.6", lw=0.6)
    for k, (marker, color) in enumerate(zip(("o", "s", "^"), ("C0", "C1", "C2"), strict=True)):
        log = np.log(ratios.isel(mode=k).values)
        middle, error = np.exp(log.mean(0)), 2 * log.std(0, ddof=1) / np.sqrt(len(log))
        bars = np.stack([middle * (1 - np.exp(-error)), middle * (np.exp(error) - 1)])
        style = {"fmt": marker, "color": color, "lw": 0.8, "label": rf"$\sigma_{k + 1}$"}
        below.errorbar(places + 0.12 * (k - 1), middle, bars, **style)
    below.axvline(len(DEPTHS) - 0.5, color="0.6", lw=0.6, ls=":")
    below.set_xticks(places, names)
    below.set(yscale="log", xlim=(-0.5, len(names) - 0.5), ylabel=r"$\sigma_k$ / typical $\sigma_k$")
    below.set_yticks([0.1, 1.0], ["0.1", "1"])
    below.set_title(f"singular values of the average of ten networks, ${D} \\times {D}$")
    below.legend(loc="lower left", ncols=3, columnspacing=1.0, handletextpad=0.2)
    return figure


def numbers(data: xarray.Dataset) -> list[Number]:
    entries = np.abs(data["mean"].sel(average="N = 1") - data["x"].mean("network")).max()
    transport = np.abs(data["oval_mean"].sel(average="N = 2") - data["barycenter"]).max()
    log_det = lambda x: np.linalg.slogdet(x)[1]
    deep = log_det(data["mean"].sel(average="N = inf").values) - log_det(data["x"].values).mean(1)
    known = {
        "largest difference of the mean at N = 1 from the average of the entries": entries,
        "of the mean of the ellipses at N = 2 from the barycenter of optimal transport": transport,
        "of log det of the mean at N = inf from the mean of log det": np.abs(deep).max(),
    }
    rows = [vanishing(name, float(off), NEAR) for name, off in known.items()]
    for name, quantity in (("converged", "share of means that converged"), ("minimum", "and are local minima")):
        least, _ = share(data[name].values.ravel())
        rows.append(Number(quantity, "-", least, 0.0, verdict(least == 1), 1.0))
    ratios = kept(data)
    for m, method in enumerate(METHODS):
        for k in (0, 2):
            quantity = f"sigma_{k + 1} of the mean over that of the ten, {method}"
            rows.append(measured(quantity, mean(ratios.isel(average=m, mode=k))))
    return rows


FIGURE = Figure(
    "3.4",
    "The mean of ten networks, and what averaging entries or factors makes of them (beyond the thesis)",
    6,
    compute,
    draw,
    numbers,
    text="Above, ten positive definite matrices of one determinant as ellipses (grey), and what is between them. The "
    "average of the entries, which is the Frechet mean at N = 1, swells. At infinite depth the mean keeps the "
    "determinant. The averages of factors are those of networks of two layers: as they come, with a random rotation of "
    "each hidden layer, nothing is left of them; with the hidden layers aligned to the first network (Procrustes) "
    "they come near the mean at N = 2. Below, ten networks of 3 x 3 that have learnt one teacher with errors: the "
    "singular values of each average over their geometric means, with two standard errors over sets of ten.",
    parameters="N = 1, 2, 3, infinity, ellipses of 8 to 1; sigma = 4, 1, 1/4 times exp(0.2 n), frames turned by angles "
    "of 0.35 n, n normal; 6 sets of ten networks",
    counted="random sets of ten networks",
    look=2,
)
