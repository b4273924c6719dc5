"""Figure 5.7, beyond the thesis: Brownian motion of the metric at several depths, against the exact laws."""

import jax
import numpy as np
import xarray
from matplotlib.figure import Figure as Drawing

from dlnjax import Noise, SVD, sweep
from dlnjax.figures._draws import normal, split
from dlnjax.figures._figure import Figure, mean, measured, Number, share, shown_depth, verdict
from dlnjax.plot import new_figure

D, BETA = 3, 2.0
DEPTHS = (1.0, 2.0, 3.0, np.inf)
SIGMA = (2.0, 1.0, 0.4)
TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
DT = 0.1
# The number of draws of the exact law for each path. More draws leave the p-values with the error of the paths alone.
DRAWS = 4
# The share of draws whose determinant changes its sign is small at depth 3, and needs more of them.
FLIPS = 200_000
# The test of Kolmogorov and Smirnov rejects a law if its p-value is below this number.
LEAST = 0.01


def coordinate(sigma, depth: float):
    """y = N sigma^(1/N), in which the noise has the same size everywhere, or log sigma at infinite depth."""
    return np.log(sigma) if np.isinf(depth) else depth * np.asarray(sigma) ** (1 / depth)


def sigma_at(y, depth: float):
    """The singular values at a coordinate, the inverse of `coordinate`."""
    return np.exp(y) if np.isinf(depth) else (np.asarray(y) / depth) ** depth


def exact(rng: np.random.Generator, depth: float, t: float, n: int):
    """(y, whether the determinant has changed its sign) of n draws of the exact law.

    With G a matrix of independent N(0, 1), the law of y at finite depth is that of the singular values of
    diag(y_0) + sqrt(2 t/beta) G, and at infinite depth that of the eigenvalues of the symmetric part of this matrix.
    """
    z = np.diag(coordinate(SIGMA, depth)) + np.sqrt(2 * t / BETA) * rng.standard_normal((n, D, D))
    if np.isinf(depth):
        return np.linalg.eigvalsh((z + z.mT) / 2)[:, ::-1], np.zeros(n, bool)
    return np.linalg.svd(z, compute_uv=False), np.linalg.det(z) < 0


def compute(key, seeds: int) -> xarray.Dataset:
    frame_key, noise_key, exact_key = split(key, 3)
    u, v = np.linalg.qr(normal(frame_key, (2, D, D)))[0]
    x0 = (u * np.array(SIGMA)) @ v.T
    finite, infinite = DEPTHS[:-1], DEPTHS[-1:]
    paths = []
    # The steps at infinite depth are another program than those at small depth.
    for depths, one in zip((finite, infinite), split(noise_key), strict=True):
        rows = len(depths) * seeds
        start = SVD(*(jax.device_put(np.tile(part, (rows,) + (1,) * part.ndim)) for part in (u, np.array(SIGMA), v)))
        options = {"ts": TIMES, "noise": Noise(one, BETA, DT), "progress": False}
        sol = sweep(None, start, depth=np.repeat(depths, seeds), **options)
        of = lambda values, k=len(depths): np.asarray(values).reshape(k, seeds, *np.shape(values)[1:])
        x = of(sol.x)[:, :, -1]
        paths.append((of(sol.sigma), np.linalg.det(x) * np.linalg.det(x0) < 0, x, of(sol.result == "successful")))
    sigma, flipped, x, finished = (np.concatenate(parts) for parts in zip(*paths, strict=True))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(exact_key)))
    law = np.stack([exact(rng, depth, TIMES[-1], DRAWS * seeds)[0] for depth in DEPTHS])
    flips = np.array([exact(rng, depth, TIMES[-1], FLIPS)[1].mean() for depth in DEPTHS])
    y = np.stack([coordinate(one, depth) for one, depth in zip(sigma, DEPTHS, strict=True)])
    return xarray.Dataset(
        {
            "y": (("depth", "path", "value"), y[:, :, -1], {"long_name": "N sigma^(1/N), or log sigma, at the end"}),
            "exact": (
                ("depth", "draw", "value"),
                law,
                {"long_name": "exact draws of y"},
            ),
            "square": (("depth", "path", "time"), np.sum(y**2, axis=-1), {"long_name": "sum of y^2"}),
            "flipped": (("depth", "path"), flipped, {"long_name": "the determinant has changed its sign"}),
            "exact_flipped": ("depth", flips, {"long_name": "share of exact draws, det < 0"}),
            "growth": ("path", np.sum(x[-1] * x0, axis=(1, 2)) / np.sum(x0**2), {"long_name": "<X_t, X_0>/|X_0|^2"}),
            "finished": (("depth", "path"), finished),
        },
        coords={"depth": list(DEPTHS), "time": list(TIMES), "value": range(1, D + 1)},
        attrs={"energy": "none", "beta": BETA, "dt": DT, "start": f"sigma = {SIGMA} in random frames"},
    )


def rate(depth: float) -> float:
    """The rate at which the mean of sum y^2 grows."""
    return (D * (D + 1) if np.isinf(depth) else 2 * D * D) / BETA


def draw(data: xarray.Dataset) -> Drawing:
    figure = new_figure(6.8, 4.8)
    grid = figure.add_gridspec(3, 2, height_ratios=(1, 1, 1.5))
    first = None
    for k, depth in enumerate(DEPTHS):
        ax = figure.add_subplot(grid[k // 2, k % 2], sharey=first)
        first = first or ax
        _densities(ax, data.sel(depth=depth), depth)
        if k % 2 == 0:
            ax.set_ylabel("density")
    ax = figure.add_subplot(grid[2, :])
    end, half = TIMES[-1], TIMES[-1] / 2
    for depth, style, name, shift in ((1.0, "-", "2tD/\\beta", (-6, 8)), (np.inf, "--", "td(d+1)/\\beta", (8, -8))):
        ax.plot((0.0, end), (0.0, rate(depth) * end), color="black", lw=0.8, ls=style)
        side = "right" if shift[0] < 0 else "left"
        place = (half, rate(depth) * half)
        ax.annotate(f"${name}$", place, shift, textcoords="offset points", va="center", ha=side)
    # The markers of the finite depths stand on one line, and are smaller from one to the next.
    for depth, marker, size, color in zip(DEPTHS, "os^D", (8, 5.5, 3, 4), ("C3", "C4", "C2", "C0"), strict=True):
        square = data["square"].sel(depth=depth)
        grown = (square - square.isel(time=0)).mean("path")
        label = f"$N = {shown_depth(depth)}$"
        ax.plot(data["time"], grown, marker, color=color, mfc="none", mew=1, markersize=size, label=label)
    ax.set(xlabel="time $t$", ylabel="growth of\nmean $\\sum y_k^2$")
    ax.set_ylim(-0.2, 5)
    ax.legend(ncols=2, loc="upper left")
    return figure


def _densities(ax, one: xarray.Dataset, depth: float) -> None:
    """The histogram of each value over the paths, and the frequencies of the exact law in the same bins."""
    law = one["exact"].values
    for k in range(D):
        bins = np.linspace(law[:, k].min(), law[:, k].max(), 36)
        ax.hist(one["y"].values[:, k], bins, density=True, histtype="stepfilled", color=f"C{k}", alpha=0.45, lw=0)
        height, _ = np.histogram(law[:, k], bins, density=True)
        ax.plot((bins[:-1] + bins[1:]) / 2, height, color="black", lw=0.8)
        at = float(np.median(law[:, k])), float(height.max())
        ax.annotate(f"$y_{k + 1}$", at, (0, 2), textcoords="offset points", ha="center")
    ax.plot(coordinate(SIGMA, depth), np.zeros(D), "^", color="black", markersize=4, clip_on=False)
    # The few draws beyond these quantiles would make the axis much longer.
    low, high = np.quantile(law[:, -1], 0.002), np.quantile(law[:, 0], 0.998)
    ax.set(title=f"$N = {shown_depth(depth)}$", xlim=(low - 0.1, high + 0.1), ylim=(0, 1.7))
    ax.set_xlabel(r"$y_k = \log\sigma_k$" if np.isinf(depth) else r"$y_k = N\sigma_k^{1/N}$")


def lost_paths(data: xarray.Dataset) -> Number:
    """The number of paths that have not finished, which should be 0."""
    lost = int((data["finished"] == 0).sum())
    return Number("paths that ended before the last time", "-", lost, 0.0, verdict(lost == 0), 0.0)


def numbers(data: xarray.Dataset) -> list[Number]:
    from scipy.stats import ks_2samp

    rows = []
    for depth in DEPTHS:
        one = data.sel(depth=depth)
        for k in range(D):
            p = float(tuple(ks_2samp(one["y"].values[:, k], one["exact"].values[:, k]))[1])
            name = f"log sigma_{k + 1}" if np.isinf(depth) else f"y_{k + 1}"
            rows.append(
                Number(f"N = {depth:g}: Kolmogorov-Smirnov p-value of {name}", "-", float(p), 0.0, verdict(p > LEAST))
            )
    for depth in DEPTHS:
        square = data["square"].sel(depth=depth)
        what = "(log sigma)^2" if np.isinf(depth) else "y^2"
        # The value at the start is the same for all paths.
        here = mean((square.isel(time=-1) - square.isel(time=0)).values)
        exact_growth = rate(depth) * TIMES[-1]
        agrees = abs(here[0] - exact_growth) <= 3 * here[1]
        rows.append(
            Number(f"N = {depth:g}: growth of the mean sum of {what}", "-", *here, verdict(agrees), exact_growth)
        )
    for depth in DEPTHS[:-1]:
        exact_share = float(data["exact_flipped"].sel(depth=depth))
        here, expected_error = (
            share(data["flipped"].sel(depth=depth).values),
            np.sqrt(exact_share * (1 - exact_share) / FLIPS),
        )
        name = f"N = {depth:g}: share of paths whose determinant has changed its sign"
        rows.append(measured(name, here, f"{exact_share:.4f}", expected_error=expected_error))
    flipped = int(data["flipped"].sel(depth=np.inf).sum())
    name = "N = inf: paths whose determinant has changed its sign"
    rows.append(Number(name, "-", flipped, 0.0, verdict(flipped == 0), 0.0))
    expected = f"{np.exp(TIMES[-1] / BETA):.4g}"
    here = mean(data["growth"].values)
    rows.append(measured("N = inf: E X_t along X_0, over X_0", here, expected, expected_error=0.0))
    return [*rows, lost_paths(data)]


FIGURE = Figure(
    "5.7",
    "Brownian motion at depth 1, 2, 3 and infinity, against its exact laws (beyond the thesis)",
    4000,
    compute,
    draw,
    numbers,
    text="Brownian motion of the metric, the Langevin equation without an energy, from one matrix. Above, the density "
    "of each singular value at t = 1/2, in the coordinate y = N sigma^(1/N), or log sigma at infinite depth. The "
    "shaded areas are the simulated paths. The black lines are independent draws of the exact law: y are the singular "
    "values of diag(y_0) plus a Gaussian matrix, and at infinite depth log sigma are the eigenvalues of a diagonal "
    "plus a symmetric Gaussian matrix. The triangles mark the start. Values repel each other. At finite depth the "
    "least one reaches 0 and is reflected, and the determinant changes its sign. At infinite depth no path does so. "
    "Below, the mean of the sum of squares grows at the exact rate. With D = d^2 this rate is the same at every finite "
    "depth. A test with the limit 0.01 fails for one in a hundred seeds although the law is right.",
    parameters="no energy, beta = 2, d = 3, N = 1, 2, 3, infinity, sigma = 2, 1, 0.4 in random frames, steps of 0.1, "
    "4000 paths at each depth, 16000 draws of each exact law and 200000 for the determinant",
    counted="paths at each depth",
    source="the exact law",
)
